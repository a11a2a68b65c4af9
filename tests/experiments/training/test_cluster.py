"""Who is alone and who is one of many."""

import os

import pytest

from experiments.training.cluster import is_cluster, keep_cpu_collectives_in_order


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
  ("version", "before", "after"),
  [
    ("0.11.0", "", "--xla_cpu_enable_concurrency_optimized_scheduler=false"),
    ("0.11.1", "--a=1", "--a=1 --xla_cpu_enable_concurrency_optimized_scheduler=false"),
    (
      "0.11.0",
      "--xla_cpu_enable_concurrency_optimized_scheduler=true",
      "--xla_cpu_enable_concurrency_optimized_scheduler=true",
    ),
    ("0.10.2", "--a=1", "--a=1"),
    ("0.12.0", "", ""),
  ],
)
def test_cpu_collectives_keep_their_order(monkeypatch, version, before, after):
  monkeypatch.setenv("XLA_FLAGS", before)
  keep_cpu_collectives_in_order(version)
  assert os.environ["XLA_FLAGS"] == after
