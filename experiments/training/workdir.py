"""The folder of a run: one run at a time, and still there.

The claim is a lock of the kernel on FOLDER/.lock, which ends with its process whatever kills it, so
that a crash never leaves a folder locked. A run over several machines claims it in its first
process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from pathlib import Path

from experiments.training.errors import RunError, UsageError

if sys.platform != "win32":
  import fcntl

LOCK = ".lock"
# What file systems answer that know no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class Workdir:
  """A claimed folder; a context manager, which gives it back.

  Args:
    folder: made if absent, with its parents.
    active: False in the other processes of a run, which claim nothing.

  Raises:
    UsageError: another run works in the folder, or nobody may write there.
  """

  def __init__(self, folder: Path, active: bool = True):
    self.folder = folder
    self._lock: int | None = None
    if not active:
      return
    try:
      folder.mkdir(parents=True, exist_ok=True)
      self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
      raise UsageError(
        f"--workdir {folder}: cannot be written ({error.strerror}); name a folder of your own"
      ) from error
    self._claim()

  def _claim(self) -> None:
    assert self._lock is not None
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno in _NO_LOCKS:  # such as some network file systems: better without than not
        return
      holder = os.pread(self._lock, 200, 0).decode("utf-8", "replace").strip() or "another process"
      os.close(self._lock)
      self._lock = None
      raise UsageError(
        f"--workdir {self.folder}: another run is at work there ({holder}); wait for it, or name "
        "another folder"
      ) from error
    os.ftruncate(self._lock, 0)
    os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

  def check(self) -> None:
    """RunError where the folder was moved or removed meanwhile, or replaced by another."""
    if self._lock is None:
      return
    with contextlib.suppress(OSError):
      if os.path.samestat(os.stat(self.folder / LOCK), os.fstat(self._lock)):
        return
    raise RunError(
      f"{self.folder}: the folder of the run has vanished, and with it every checkpoint; it was "
      "moved, removed or unmounted: put it back and start the same command again"
    )

  def close(self) -> None:
    """Gives the folder back."""
    if self._lock is not None:
      os.close(self._lock)
      self._lock = None

  def __enter__(self) -> Workdir:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()
