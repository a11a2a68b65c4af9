"""Who is alone and who is one of many."""

import os

import jax
import pytest

from experiments.training import cluster
from experiments.training.cluster import is_cluster


@pytest.mark.parametrize(
  ("env", "expected"),
  [
    ({}, False),
    ({"JAX_COORDINATOR_ADDRESS": "host:1234"}, True),
    ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, False),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2"}, True),
    ({"SLURM_NTASKS": "4"}, False),  # an allocation, looked at from its login shell
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, True),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, True),
  ],
)
def test_cluster_is_told_by_the_environment(env, expected):
  assert is_cluster(env) is expected


@pytest.mark.parametrize(
  ("version", "devices", "before", "after"),
  [
    ("0.11.0", 8, "1", "64"),
    ("0.11.2", 2, "100", "100"),
    ("0.11.2", 1, "3", "3"),
    ("0.10.2", 8, "1", "1"),
    ("0.12.0", 8, "1", "1"),
  ],
)
def test_room_for_cpu_collectives(monkeypatch, version, devices, before, after):
  monkeypatch.setenv("NPROC", before)
  monkeypatch.setattr(cluster, "simulated_cpu_devices", lambda: devices)
  cluster.make_room_for_cpu_collectives(version)
  assert os.environ["NPROC"] == after


def test_simulated_cpu_devices(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--a=1 --xla_force_host_platform_device_count=12")
  assert cluster.simulated_cpu_devices() == 12
  monkeypatch.delenv("XLA_FLAGS")
  assert cluster.simulated_cpu_devices() == jax.config.jax_num_cpu_devices == 8
