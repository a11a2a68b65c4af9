"""What sources made of shards share: an index per shard, from a sidecar, the cache or a scan."""

import os
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from pipelines import columns, crew, decode, files, index
from pipelines.columns import Column, PackedStrings
from pipelines.config import DataConfig
from pipelines.decode import Payload
from pipelines.errors import BadAudio, DataError
from pipelines.files import RangeFile
from pipelines.sources.base import EncodedSource

SIDECAR = ".index.npz"
"""What `write_shards` adds to a shard's name for its index."""
_NAMES = ("ids", "frames", "rates", "offset", "size", "labels", "reason")
_TEXTS = ("ids", "labels", "reason")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # in a name they would break the line that tells it
_WHOLE_BYTES = 4 << 20  # larger recordings are read in parts: a clip may be a small piece of one

UNKNOWN = -1
"""In place of frames: the shard breaks off here, and nobody knows how many records followed."""
Row = tuple[str, int, int, int, int, str, str]
"""A record: id, frames, rate, offset and size in bytes, label, reason ("" if usable)."""
Scan = Callable[[str, int], Iterable[Row]]
"""Lists the records of a shard, given its path and its size."""


class ShardSource(EncodedSource):
  """Recordings that are stretches of larger files, with one index per file."""

  kind = "shard"

  def __init__(self, name: str, paths: list[str], cfg: DataConfig, scan: Scan):
    missing = [p for p in paths if not files.exists(p)]
    if missing:
      more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
      raise DataError(f"data.source: no shard {missing[0]}{more}{files.nearest(missing[0])}")
    self._paths = paths
    tables: list[dict[str, Column]] = [{}] * len(paths)
    unread: dict[int, DataError] = {}

    def load(number: int) -> None:
      try:
        tables[number] = shard_index(self.kind, paths[number], scan)
      except DataError as error:
        unread[number] = error
        tables[number] = _lost_shard(paths[number], error)

    label = "reading shard indexes"
    index.run_threads(load, range(len(paths)), cfg, label, "shards", lambda i: paths[i])
    if len(unread) == len(paths):
      raise unread[0]
    for number, table in enumerate(tables):
      table["shards"] = np.full(len(table["frames"]), number, np.int32)
    whole = columns.concatenate(tables)
    if not len(whole["frames"]):  # as their indexes say
      raise DataError(f"data.source: {paths[0]} and its like hold no audio records")
    self.lost = _count_lost(whole, len(paths))
    super().__init__(name, whole)

  def place(self, i: int) -> str:
    """The shard that holds recording i."""
    return self._paths[int(self.table["shards"][i])]

  def locate(self, i: int) -> tuple[Payload, int]:
    """The encoded bytes of recording i, or a window on them where they are many."""
    path = self.place(i)
    offset, size = int(self.table["offset"][i]), int(self.table["size"][i])
    if size > _WHOLE_BYTES and not files.is_remote(path):
      return RangeFile(path, offset, size), 0
    return files.read_range(path, offset, size), 0


def shard_index(kind: str, path: str, scan: Scan) -> dict[str, Column]:
  """Columns of one shard, from whatever is quickest and still true."""
  stat = files.stat(path)
  if stat.strange:
    raise DataError(f"{path} is {stat.strange}, no regular file; replace or remove it")
  if not stat.size:
    raise DataError(f"{path} is empty; delete it or copy it again")
  if (told := load_sidecar(path, stat.size)) is not None:
    return told
  name = path if files.is_remote(path) else os.path.abspath(path)
  stamp = np.array([stat.size, stat.mtime], np.int64)
  table = index.load_cached(kind, name)
  if (
    table is not None
    and np.array_equal(table.pop("stamp", ()), stamp)
    and _is_sound(table, stat.size)
  ):
    return table
  try:
    table = pack_rows(_alive(scan(path, stat.size)))
  except OSError as error:
    raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
  if not len(table["frames"]):
    raise DataError(f"data.source: {path} holds no audio records; delete it or copy it again")
  table = _with_lost(table, path, stat.size)
  if index.at_rest(stat.mtime):
    index.save_cached(kind, name, table | {"stamp": stamp})
  return table


def _alive(rows: Iterable[Row]) -> Iterator[Row]:
  """The same rows; a large shard takes long to scan, and each row is a sign of life."""
  for row in rows:
    crew.alive()
    yield row


def pack_rows(rows: Iterable[Row]) -> dict[str, Column]:
  """Records as columns."""
  listed = list(zip(*rows, strict=True)) or [()] * len(_NAMES)
  table: dict[str, Column] = {}
  for name, values in zip(_NAMES, listed, strict=True):
    if name in _TEXTS:
      table[name] = PackedStrings.pack(_CONTROLS.sub(_escaped, value) for value in values)
    else:
      table[name] = np.array(values, np.int32 if name == "rates" else np.int64)
  return table


def _escaped(found: re.Match[str]) -> str:
  return f"\\x{ord(found[0]):02x}"


def load_sidecar(path: str, size: int) -> dict[str, Column] | None:
  """The index beside a shard, or None when absent, damaged or of another version of the shard."""
  table, told_size = _read_sidecar(path)
  return table if table is not None and told_size == size and _is_sound(table, size) else None


def _read_sidecar(path: str) -> tuple[dict[str, Column] | None, int]:
  """The index beside a shard as it is, and the size of the shard that it was made for."""
  sidecar = path + SIDECAR
  try:
    if not files.exists(sidecar):
      return None, -1
    with files.open_binary(sidecar) as file:
      table = columns.load(file)
  except (OSError, BadAudio):
    return None, -1
  if table is None or not _is_number(table.get("shard_size")):
    return None, -1
  return table, int(table.pop("shard_size"))


def _with_lost(table: dict[str, Column], path: str, size: int) -> dict[str, Column]:
  """A cut shard's records, and by name those that its index of before has and it has no more.

  An index of another set of records is not believed.
  """
  before, told_size = _read_sidecar(path)
  if before is None or told_size <= size or not _is_sound(before, told_size):
    return table
  usable = np.diff(table["reason"].ends, prepend=0) == 0
  left = columns.take(table, usable)
  count = len(left["frames"])
  if list(left["ids"]) != list(before["ids"])[:count] or not np.array_equal(
    left["offset"], before["offset"][:count]
  ):
    return table
  reason = f"{os.path.basename(path)} is cut short, and this was behind"
  rows = [(name, 0, 0, 0, 0, "", reason) for name in before["ids"][count:]]
  return columns.concatenate([left, pack_rows(rows)]) if rows else table


def _is_number(column: Column) -> bool:
  return isinstance(column, np.ndarray) and column.shape == () and column.dtype.kind in "iu"


def _is_sound(table: dict[str, Column], size: int) -> bool:
  """Whether an index that was stored could be one of a shard of this size."""
  if not set(_NAMES) <= set(table):
    return False
  count = len(table["ids"]) if isinstance(table["ids"], PackedStrings) else -1
  for name in _NAMES:
    column = table[name]
    if name in _TEXTS:
      if not isinstance(column, PackedStrings) or len(column) != count:
        return False
    elif isinstance(column, PackedStrings) or column.shape != (count,) or column.dtype.kind != "i":
      return False
  usable = np.diff(table["reason"].ends, prepend=0) == 0
  low, high = decode.RATES
  offset, length, rates = table["offset"], table["size"], table["rates"]
  inside = (offset >= 0) & (length >= 0) & (offset <= size) & (length <= size - offset)
  sane = (table["frames"] > 0) & (rates >= low) & (rates <= high)
  return bool((inside & sane)[usable].all())


def _lost_shard(path: str, error: DataError) -> dict[str, Column]:
  """What stands for a shard that cannot be read at all."""
  size = files.stat(path).size
  name = os.path.basename(path)
  return pack_rows([(f"{name}#all", UNKNOWN, 0, 0, size, "", str(error))])


def _count_lost(table: dict[str, Column], shards: int) -> int:
  """How many records must be missing beyond those that are listed; the reasons then tell it too.

  Where a shard breaks off nobody knows what followed. It is taken to have held as many records as
  its lost bytes have room for, no fewer than whole shards usually have, and no more than any has.
  """
  ends = np.flatnonzero(table["frames"] == UNKNOWN)
  if not len(ends):
    return 0
  listed = np.bincount(table["shards"][table["frames"] != UNKNOWN], minlength=shards)
  broken = table["shards"][ends]
  whole = np.delete(listed, broken)
  usual, most = (int(np.median(whole)), int(whole.max())) if len(whole) else (0, 1 << 40)
  # From one record's data to the next: with headers, padding and notes.
  same = np.diff(table["shards"]) == 0
  strides = np.diff(table["offset"])[same & (np.diff(table["offset"]) > 0)]
  length = float(np.mean(strides)) if len(strides) else float(np.mean(table["size"]))
  reasons = list(table["reason"])
  lost = 0
  for row in ends:
    fitting = round(float(table["size"][row]) / length) if length else 0
    here = int(listed[table["shards"][row]])
    missing = max(1, min(max(fitting, usual - here), most - here))
    if missing > 1:
      reasons[row] += f" (about {missing:,} recordings lost)"
    lost += missing - 1
  table["reason"] = PackedStrings.pack(reasons)
  return lost
