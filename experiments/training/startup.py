"""From the start of a process to its first step: how long it took, and programs that are kept."""

from __future__ import annotations

import os
import pathlib
import time

import jax

from experiments.training.errors import UsageError

_IMPORTED = time.monotonic()


def process_seconds() -> float:
  """Seconds since this process began, imports included.

  Where the system does not tell when that was (all but Linux), since this module was imported.
  """
  try:
    started = float(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(pathlib.Path("/proc/uptime").read_text().split()[0])
  except (OSError, ValueError, IndexError):
    return time.monotonic() - _IMPORTED
  return uptime - started / os.sysconf("SC_CLK_TCK")


def keep_programs(choice: str) -> pathlib.Path | None:
  """Lets JAX keep compiled programs in a folder, so that the next start compiles nothing.

  choice: a folder; "none"; or "auto", which is `dasheng_jax/programs` in `XDG_CACHE_HOME` or
  `~/.cache` on accelerators and nothing on a CPU, whose programs fit one model of processor alone.
  What JAX was told itself (JAX_COMPILATION_CACHE_DIR) stays. Returns the folder in use.
  """
  told = getattr(jax.config, "jax_compilation_cache_dir", None)
  if told:
    return pathlib.Path(told)
  if choice == "none" or (choice == "auto" and jax.default_backend() == "cpu"):
    return None
  if choice == "auto":
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = pathlib.Path(root).expanduser() / "dasheng_jax" / "programs"
  else:
    folder = pathlib.Path(choice).expanduser()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    if choice != "auto":
      raise UsageError(f"--compile_cache {folder}: {error.strerror}; name another") from error
    return None
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
  return folder
