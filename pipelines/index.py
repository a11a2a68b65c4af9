"""Header scans, kept on disk so that the second start of a run is quick.

A stored row is used only while path, size and time of change of its file are what they were, and
only if the file had been at rest for some seconds when it was read: a file that is written twice
within one tick of the file system's clock shows no change in time. The cache lives in
$AUDIO_INDEX_CACHE ("off" for none), or in the user's cache folder.
"""

import functools
import hashlib
import itertools
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from pipelines import columns, decode, files
from pipelines.columns import Column, PackedStrings
from pipelines.config import DataConfig
from pipelines.crew import Crew, Job
from pipelines.errors import BadAudio
from pipelines.progress import Progress

CACHE_VARIABLE = "AUDIO_INDEX_CACHE"
_FORMAT = "2"  # part of every key: raise it when what a scan yields changes
_REST_NS = 3_000_000_000
_ABSENT, _STRANGE = -1, -2  # in place of a size
_log = logging.getLogger("pipelines")


def cache_dir() -> str | None:
  """Folder of stored indexes, or None when switched off."""
  chosen = os.environ.get(CACHE_VARIABLE)
  if chosen is not None:
    return None if chosen.lower() in ("", "off", "none", "0") else os.path.expanduser(chosen)
  if sys.platform == "darwin":
    base = os.path.expanduser("~/Library/Caches")
  else:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return os.path.join(base, "jax-audio-index")


def load_cached(kind: str, name: str) -> dict[str, Column] | None:
  """Stored columns of one data set or shard, if any."""
  path = _cache_path(kind, name)
  return columns.load(path) if path else None


def save_cached(kind: str, name: str, table: dict[str, Column]) -> None:
  """Stores columns; a cache that cannot be written costs time later, not the run now."""
  path = _cache_path(kind, name)
  if path is None:
    return
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    columns.save(path, table)
  except OSError as error:
    _log.info("index cache %s is not written: %s", path, error)


def at_rest(mtime: np.ndarray | int) -> np.ndarray | bool:
  """Whether a file's time of change lies far enough back for it to be trusted."""
  return mtime < time.time_ns() - _REST_NS


def scan_files(
  name: str, paths: Sequence[str], stats: Sequence[files.Stat | None], cfg: DataConfig
) -> dict[str, Column]:
  """Reads the header of every audio file, or takes it from the cache.

  Args:
    name: what the cache entry is filed under, such as the folder's absolute path.
    paths: the files.
    stats: their stat; None marks an absent file.
    cfg: for workers and stall_seconds.

  Returns:
    Columns path, size i64, mtime i64, trusted bool, frames i64, rates i32 and reason (text; ""
    where the file is usable).
  """
  table: dict[str, Column] = {
    "path": paths if isinstance(paths, PackedStrings) else PackedStrings.pack(paths),
    "size": np.array([_size(s) for s in stats], np.int64),
    "mtime": np.array([s.mtime if s else -1 for s in stats], np.int64),
  }
  trusted = np.asarray(at_rest(table["mtime"]))
  frames, rates = np.zeros(len(paths), np.int64), np.zeros(len(paths), np.int32)
  reasons = [""] * len(paths)
  todo = _reuse(load_cached("files", name), table, frames, rates, reasons)
  if len(todo):

    def scan(i: int) -> None:
      frames[i], rates[i], reasons[i] = header_or_reason(paths[i], int(table["size"][i]))

    run_threads(scan, todo, cfg, "reading audio headers", "files", lambda i: paths[i])
  table |= {"trusted": trusted, "frames": frames, "rates": rates}
  table["reason"] = PackedStrings.pack(reasons)
  if len(todo):
    save_cached("files", name, table)
  return table


def header_or_reason(payload, size: int) -> tuple[int, int, str]:
  """(frames, rate in Hz, "") of a recording, or (0, 0, why it is unusable)."""
  if size <= 0:
    return 0, 0, {0: "empty file", _STRANGE: "is no regular file"}.get(size, "absent")
  try:
    if isinstance(payload, str) and files.is_remote(payload):
      payload = files.read_range(payload, 0, size)
    frames, rate = decode.header(payload)
  except BadAudio as error:
    return 0, 0, str(error)
  return (frames, rate, "") if frames else (0, 0, "no samples")


def run_threads(
  work: Callable[[int], None],
  items: Sequence[int] | np.ndarray,
  cfg: DataConfig,
  label: str,
  unit: str,
  name: Callable[[int], str],
) -> None:
  """Calls work(item) for each item on several threads, with progress; raises the first error.

  Args:
    work: what is done, in any order; says `crew.alive` after each of many reads.
    items: numbers.
    cfg: for workers and stall_seconds.
    label: of the progress line.
    unit: what is counted in it.
    name: what an item is, for the error where it hangs (`crew.Stalled`).
  """
  workers = min(len(items), cfg.workers or os.cpu_count() or 1)
  size = 64 if len(items) >= 256 * workers else 1
  chunks = (items[k : k + size] for k in range(0, len(items), size))

  def start(chunk) -> tuple[Job, int]:
    def run(job: Job) -> None:
      for i in chunk:
        job.at(functools.partial(name, int(i)))
        work(int(i))

    return crew.submit(run), len(chunk)

  with Progress(label, len(items), unit) as progress, Crew(workers, cfg.stall_seconds) as crew:
    ahead = deque(start(chunk) for chunk in itertools.islice(chunks, 4 * workers))
    while ahead:
      job, count = ahead.popleft()
      crew.wait(job)
      progress.add(count)
      ahead.extend(start(chunk) for chunk in itertools.islice(chunks, 1))


def _size(stat: files.Stat | None) -> int:
  if stat is None:
    return _ABSENT
  return _STRANGE if stat.strange else stat.size


def _reuse(stored, table, frames, rates, reasons) -> np.ndarray:
  """Copies the rows of a stored table that still hold; returns the numbers of the others."""
  count = len(table["path"])
  names = {"path", "size", "mtime", "trusted", "frames", "rates", "reason"}
  if stored is None or not names <= set(stored):
    return np.arange(count)
  if list(stored["path"].ends) == list(table["path"].ends) and np.array_equal(
    stored["path"].blob, table["path"].blob
  ):
    row = np.arange(count)  # the usual case, without a dictionary of millions of paths
  else:
    known = {path: i for i, path in enumerate(stored["path"])}
    row = np.array([known.get(path, -1) for path in table["path"]], np.int64)
  same = (row >= 0) & (table["size"] >= 0)
  if len(stored["path"]):
    same &= stored["trusted"][row] & (stored["size"][row] == table["size"])
    same &= stored["mtime"][row] == table["mtime"]
  here, there = np.flatnonzero(same), row[same]
  frames[here], rates[here] = stored["frames"][there], stored["rates"][there]
  for i in here[stored["frames"][there] == 0]:
    reasons[i] = stored["reason"][int(row[i])]
  return np.flatnonzero(~same)


def _cache_path(kind: str, name: str) -> str | None:
  folder = cache_dir()
  if folder is None:
    return None
  key = hashlib.blake2b("\0".join((_FORMAT, kind, name)).encode("utf-8", "surrogateescape"))
  return os.path.join(folder, f"{kind}-{key.hexdigest()[:32]}.npz")
