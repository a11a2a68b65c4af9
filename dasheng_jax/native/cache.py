"""Compiled libraries in the user's cache: put there whole, found whole, removed when out of use.

The name of a library ends with a digest of its bytes. A crash, a full disk or a broken copy can
leave less of it than was written, and to load what is cut off ends the process, so the digest is
compared first. All of this is safe beside other processes, on a shared home too: libraries appear
under their names complete, and what is found whole is never written again.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil

BUILD = "build-"  # folders in which libraries are made
DAY_SECONDS = 86_400
# No build takes so long; what is older was left behind by a process that was killed.
BUILD_SECONDS = DAY_SECONDS
UNUSED_SECONDS = 90 * DAY_SECONDS


def cache_folder(package: str) -> pathlib.Path:
  """Where compiled libraries are kept: `$XDG_CACHE_HOME/PACKAGE` or `~/.cache/PACKAGE`."""
  root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
  return pathlib.Path(root) / package


def find(folder: pathlib.Path, key: str) -> list[pathlib.Path]:
  """The libraries of this key; those that are damaged are removed."""
  whole = []
  for path in sorted(folder.glob(f"kernels-{key}-*.so")):
    # What cannot be read just now may be in order: it is left alone.
    with contextlib.suppress(OSError):
      if path.name == _name(key, path):
        whole.append(path)
      else:
        remove(path)
  return whole


def place(made: pathlib.Path, folder: pathlib.Path, key: str) -> pathlib.Path:
  """Moves a library that was made on the same file system into the cache; its place there."""
  path = folder / _name(key, made)
  if path in find(folder, key):
    mark_used(path)  # another process was quicker, and may run it already
    return path
  with open(made, "rb+") as file:
    os.fsync(file.fileno())
  os.replace(made, path)
  return path


def mark_used(path: pathlib.Path) -> None:
  """Notes the time of use where that is permitted."""
  with contextlib.suppress(OSError):
    os.utime(path)


def remove(path: pathlib.Path) -> None:
  """Removes a file where that is permitted; processes that have loaded it keep it."""
  with contextlib.suppress(OSError):
    path.unlink()


def sweep(folder: pathlib.Path, now: float) -> None:
  """Removes libraries that were not used for 90 days, and what builds left behind a day ago.

  now: by the clock that the files' times are from, which on a shared home is not this machine's.
  """
  for path in folder.iterdir():
    with contextlib.suppress(OSError):
      age = now - path.stat().st_mtime
      if path.name.startswith(BUILD) and age > BUILD_SECONDS:
        shutil.rmtree(path, ignore_errors=True)
      elif path.match("kernels-*.so") and age > UNUSED_SECONDS:
        remove(path)


def _name(key: str, path: pathlib.Path) -> str:
  return f"kernels-{key}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.so"
