"""Joining the other processes of a run: every host of a pod starts the same command."""

import os
from collections.abc import Mapping

import jax

from experiments.training.errors import UsageError


def is_cluster(env: Mapping[str, str]) -> bool:
  """Whether the environment says that this is one process of several.

  JAX_COORDINATOR_ADDRESS (set by hand, with JAX_NUM_PROCESSES and JAX_PROCESS_ID), SLURM or Open
  MPI with more than one task, or a TPU slice of more than one host.
  """
  tasks = max(_number(env, name) for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
  in_step = "SLURM_PROCID" in env or "OMPI_COMM_WORLD_RANK" in env
  hosts = [host for host in env.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
  return "JAX_COORDINATOR_ADDRESS" in env or (tasks > 1 and in_step) or len(hosts) > 1


def _number(env: Mapping[str, str], name: str) -> int:
  value = env.get(name, "")
  return int(value) if value.isdigit() else 1


# JAX 0.11 compiles CPU programs with a scheduler that lets independent collectives overtake each
# other; on several CPU devices in one process they then wait for each other for ever. 0.10 and 0.12
# do not.
_SAFE_SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def keep_cpu_collectives_in_order(version: str = jax.__version__) -> None:
  """Chooses XLA's plain CPU scheduler where the other one deadlocks; before JAX is first used.

  A choice that XLA_FLAGS already holds stays.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  if version.startswith("0.11.") and _SAFE_SCHEDULER.split("=")[0] not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {_SAFE_SCHEDULER}".strip()


def join_cluster() -> None:
  """Connects to the other processes, if there are any, before JAX looks for devices.

  Without this every process of a pod would see its own devices alone, and train its own copy into
  the same folder. Raises UsageError where the processes do not find each other.
  """
  keep_cpu_collectives_in_order()
  if not is_cluster(os.environ) or jax.distributed.is_initialized():
    return
  count, own = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
  try:
    jax.distributed.initialize(
      num_processes=int(count) if count else None, process_id=int(own) if own else None
    )
  except (RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise UsageError(
      f"the processes of this run did not find each other ({reason}); check "
      "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
    ) from error
