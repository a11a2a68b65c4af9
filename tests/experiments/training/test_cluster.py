"""Who is alone and who is one of many."""

import pytest

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
