"""Columns of an index of recordings: frugal in memory, and stored as one .npz file.

Tens of millions of recordings must fit: a Python string costs some 100 bytes each, so text is kept
as one block of UTF-8 with the end of each item.
"""

import io
import math
import os
import struct
import tempfile
import tokenize
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from pipelines import files
from pipelines.files import BinaryFile


class PackedStrings(Sequence):
  """An immutable list of text in two arrays: u8[bytes] and i64[items] (end of each item)."""

  def __init__(self, blob: np.ndarray, ends: np.ndarray):
    self.blob, self.ends = blob, ends

  @classmethod
  def pack(cls, items: Iterable[str]) -> "PackedStrings":
    """Packs text; what is not valid Unicode (file names can be) survives the way back."""
    coded = [item.encode("utf-8", "surrogateescape") for item in items]
    ends = np.cumsum([len(c) for c in coded], dtype=np.int64)
    return cls(np.frombuffer(b"".join(coded), np.uint8), ends.reshape(-1))

  def __len__(self) -> int:
    return len(self.ends)

  def __getitem__(self, i):
    if isinstance(i, slice):
      return [self[k] for k in range(*i.indices(len(self)))]
    i = range(len(self))[i]
    start = self.ends[i - 1] if i else 0
    return self.blob[start : self.ends[i]].tobytes().decode("utf-8", "surrogateescape")

  def __iter__(self) -> Iterator[str]:
    return (self[i] for i in range(len(self)))

  def take(self, keep: np.ndarray) -> "PackedStrings":
    """The items at the given numbers, or where a boolean mask is True."""
    keep = np.flatnonzero(keep) if keep.dtype == bool else keep
    if len(keep) == len(self) and np.array_equal(keep, np.arange(len(self))):
      return self
    lengths = np.diff(self.ends, prepend=0)[keep]
    ends = np.cumsum(lengths)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    source = np.repeat(self.ends[keep] - lengths, lengths) + within
    return PackedStrings(self.blob[source], ends)


Column = Any
"""np.ndarray or PackedStrings; which of them, the name of the column decides."""


def take(columns: dict[str, Column], keep: np.ndarray) -> dict[str, Column]:
  """The same rows of every column."""
  return {n: c.take(keep) if isinstance(c, PackedStrings) else c[keep] for n, c in columns.items()}


def concatenate(parts: Sequence[dict[str, Column]]) -> dict[str, Column]:
  """Columns with the rows of all parts, in order; every part has the same columns."""
  whole: dict[str, Column] = {}
  for name in parts[0]:
    columns = [part[name] for part in parts]
    if isinstance(columns[0], PackedStrings):
      shift = np.cumsum([0, *(len(c.blob) for c in columns)])
      ends = [c.ends + s for c, s in zip(columns, shift, strict=False)]
      whole[name] = PackedStrings(np.concatenate([c.blob for c in columns]), np.concatenate(ends))
    else:
      whole[name] = np.concatenate(columns)
  return whole


def save(path: str, columns: dict[str, Column]) -> None:
  """Writes columns to `path` so that a reader sees the whole file or none."""
  arrays: dict[str, Any] = {}
  for name, column in columns.items():
    if isinstance(column, PackedStrings):
      arrays[f"{name}.text"], arrays[f"{name}.ends"] = column.blob, column.ends
    else:
      arrays[name] = column
  handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", suffix=".part")
  try:
    with os.fdopen(handle, "wb") as file:
      np.savez(file, **arrays)
    os.chmod(temporary, 0o644)  # mkstemp makes files private; an index is as public as its data
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise


def load(path: str | BinaryFile) -> dict[str, Column] | None:
  """Reads what `save` wrote, given its path or its open file; None if it is absent or damaged.

  Nothing that the file claims is taken at its word: no array is made that is larger than the file.
  """
  try:
    if isinstance(path, str):
      with files.open_binary(path) as file:
        arrays = _read_npz(file)
    else:
      arrays = _read_npz(path)
  except _UNREADABLE:
    return None
  columns: dict[str, Column] = {}
  for name, array in arrays.items():
    if name.endswith(".text"):
      ends = arrays.get(f"{name[:-5]}.ends")
      if ends is None or not _is_packed(array, ends):
        return None
      columns[name[:-5]] = PackedStrings(array, ends)
    elif not name.endswith(".ends"):
      columns[name] = array
  return columns


# What zipfile and NumPy meet in files that are no archives of arrays.
_UNREADABLE = (
  OSError,
  ValueError,  # BadAudio is one
  KeyError,
  EOFError,
  NotImplementedError,
  RuntimeError,
  SyntaxError,
  tokenize.TokenError,
  struct.error,
  zipfile.BadZipFile,
)


def _read_npz(file: BinaryFile) -> dict[str, np.ndarray]:
  """As np.load, of arrays that are stored as they are; sizes are checked before room is made."""
  arrays = {}
  file.seek(0, os.SEEK_END)
  room = file.tell()  # TensorFlow's files tell where they are, but not when they get there
  with zipfile.ZipFile(file) as archive:
    if sum(info.file_size for info in archive.infolist()) > room:
      raise ValueError("larger than the file")
    for info in archive.infolist():
      if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError("compressed")
      data = io.BytesIO(archive.read(info))  # which verifies its checksum
      version = np.lib.format.read_magic(data)
      if version != (1, 0):
        raise ValueError("of a version that np.savez needs for no plain array")
      shape, fortran, dtype = np.lib.format.read_array_header_1_0(data)
      if dtype.hasobject or fortran or len(shape) > 1:
        raise ValueError("no column")
      content = data.read()
      if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError("of another length than it says")
      arrays[info.filename.removesuffix(".npy")] = np.frombuffer(content, dtype).reshape(shape)
  return arrays


def _is_packed(blob: np.ndarray, ends: np.ndarray) -> bool:
  """Whether two arrays are text as `PackedStrings` keeps it."""
  if blob.dtype != np.uint8 or ends.dtype.kind != "i" or blob.ndim != 1 or ends.ndim != 1:
    return False
  within = not len(ends) or (ends[0] >= 0 and ends[-1] <= len(blob))
  return bool(within and (np.diff(ends) >= 0).all())
