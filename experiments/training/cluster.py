"""Joining the other processes of a run: every host of a pod starts the same command."""

import os
import re
import sys
from collections.abc import Mapping
from typing import NoReturn

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


# In JAX 0.11 every collective that a simulated CPU device waits in holds a thread of one pool,
# several of them per device, and the pool has as many threads as there are devices or cores: once
# all wait, nobody is left to run what they wait for. In 0.10 and 0.12 this was not seen.
THREADS_PER_DEVICE = 8


def make_room_for_cpu_collectives(version: str = jax.__version__) -> None:
  """Gives XLA's CPU pool enough threads for several CPU devices in one process.

  Before JAX looks for devices, after their number is set. XLA takes NPROC for the number of cores;
  one that is large enough already stays.
  """
  devices = simulated_cpu_devices()
  if version.startswith("0.11.") and devices > 1:
    cores = max(_number(os.environ, "NPROC"), os.cpu_count() or 1)
    os.environ["NPROC"] = str(max(cores, THREADS_PER_DEVICE * devices))


def simulated_cpu_devices() -> int:
  """How many CPU devices this process was told to make; 1 if nobody did."""
  flag = re.search(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
  configured = getattr(jax.config, "jax_num_cpu_devices", 1)
  return max(1, configured, int(flag[1]) if flag else 1)


# Exit code of a process whose run cannot go on because of another one: "try again" of sysexits.h.
PEER_LOST = 75


def join_cluster(peer_seconds: int = 100) -> None:
  """Connects to the other processes, if there are any, before JAX looks for devices.

  Without this every process of a pod would see its own devices alone, and train its own copy into
  the same folder. peer_seconds: how long a process may be silent before the others end. Raises
  UsageError where the processes do not find each other.
  """
  make_room_for_cpu_collectives()
  if not is_cluster(os.environ) or jax.distributed.is_initialized():
    return
  count, own = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
  try:
    jax.distributed.initialize(
      num_processes=int(count) if count else None,
      process_id=int(own) if own else None,
      heartbeat_timeout_seconds=peer_seconds,
    )
  except (RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise UsageError(
      f"the processes of this run did not find each other ({reason}); check "
      "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
    ) from error


def leave(message: str, code: int) -> NoReturn:
  """Ends one process of several at once, with a line on standard error.

  The ordinary end would wait for the others: in a collective, for a checkpoint that all must
  finish, at the barrier where JAX takes its leave. They wait in turn until this process is gone,
  which their broken connections tell them.
  """
  print(message, file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(code)
