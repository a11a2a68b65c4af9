"""What sources made of shards share: an index per shard, from a sidecar, the cache or a scan."""

import os
from collections.abc import Callable, Iterable

import numpy as np

from pipelines import columns, files, index
from pipelines.columns import Column, PackedStrings
from pipelines.config import DataConfig
from pipelines.decode import Payload
from pipelines.errors import DataError
from pipelines.files import RangeFile
from pipelines.sources.base import EncodedSource

SIDECAR = ".index.npz"
"""What `write_shards` adds to a shard's name for its index."""
_NAMES = ("ids", "frames", "rates", "offset", "size", "labels", "reason")
_WHOLE_BYTES = 4 << 20  # larger recordings are read in parts: a clip may be a small piece of one

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

    def load(number: int) -> None:
      tables[number] = shard_index(self.kind, paths[number], scan)

    index.run_threads(load, range(len(paths)), cfg.workers, "reading shard indexes", "shards")
    for number, table in enumerate(tables):
      table["shards"] = np.full(len(table["frames"]), number, np.int32)
    whole = columns.concatenate(tables)
    if not len(whole["frames"]):
      raise DataError(f"data.source: {paths[0]} and its like hold no audio records")
    super().__init__(name, whole)

  def locate(self, i: int) -> tuple[Payload, int]:
    """The encoded bytes of recording i, or a window on them where they are many."""
    path = self._paths[int(self.table["shards"][i])]
    offset, size = int(self.table["offset"][i]), int(self.table["size"][i])
    if size > _WHOLE_BYTES and not files.is_remote(path):
      return RangeFile(path, offset, size), 0
    return files.read_range(path, offset, size), 0


def shard_index(kind: str, path: str, scan: Scan) -> dict[str, Column]:
  """Columns of one shard, from whatever is quickest and still true."""
  stat = files.stat(path)
  table = load_sidecar(path, stat.size)
  if table is not None:
    return table
  name = path if files.is_remote(path) else os.path.abspath(path)
  stamp = np.array([stat.size, stat.mtime], np.int64)
  table = index.load_cached(kind, name)
  if (
    table is not None
    and np.array_equal(table.pop("stamp", ()), stamp)
    and set(_NAMES) <= set(table)
  ):
    return table
  table = pack_rows(scan(path, stat.size))
  if index.at_rest(stat.mtime):
    index.save_cached(kind, name, table | {"stamp": stamp})
  return table


def pack_rows(rows: Iterable[Row]) -> dict[str, Column]:
  """Records as columns."""
  listed = list(zip(*rows, strict=True)) or [()] * len(_NAMES)
  table: dict[str, Column] = {}
  for name, values in zip(_NAMES, listed, strict=True):
    if name in ("ids", "labels", "reason"):
      table[name] = PackedStrings.pack(values)
    else:
      table[name] = np.array(values, np.int32 if name == "rates" else np.int64)
  return table


def load_sidecar(path: str, size: int) -> dict[str, Column] | None:
  """The index beside a shard, or None when absent, damaged or of another version of the shard."""
  sidecar = path + SIDECAR
  if files.is_remote(sidecar):
    if not files.exists(sidecar):
      return None
    with files.open_binary(sidecar) as file:
      table = columns.load_bytes(file.read())
  else:
    table = columns.load(sidecar)
  if table is None or not {*_NAMES, "shard_size"} <= set(table):
    return None
  return table if int(table.pop("shard_size")) == size else None
