"""Files by path or URL: listing, brace lists, stat, and reads of a byte range.

Local paths use the operating system. A path with a scheme ("gs://...") goes through TensorFlow's
file systems, imported when the first such path is met.
"""

import difflib
import functools
import glob
import io
import os
import re
import threading
from collections import OrderedDict
from typing import BinaryIO, NamedTuple

from pipelines.errors import BadAudio, DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BLOCK = 8 << 20  # bytes that one remote request fetches
_BLOCKS = 32  # remote blocks kept in memory


class Stat(NamedTuple):
  """Size in bytes and time of last change in nanoseconds."""

  size: int
  mtime: int


def is_remote(path: str) -> bool:
  """True for URLs such as gs://bucket/file."""
  return "://" in path


def expand(pattern: str) -> list[str]:
  """Paths of a brace list ("x-{000..099}.tar", "{a,b}/{0..3}.tar", nested too) or a glob, in order.

  Brace lists are written out without looking at the disk, globs are looked up and sorted.
  """
  paths = []
  for name in _expand_braces(pattern):
    if any(c in name for c in "*?["):
      found = _gfile().glob(name) if is_remote(name) else glob.glob(name, recursive=True)
      paths += sorted(found)
    else:
      paths.append(name)
  return paths


def _expand_braces(pattern: str) -> list[str]:
  match = _BRACES.search(pattern)  # innermost first, so nested lists unfold from within
  if not match:
    if "{" in pattern or "}" in pattern:
      raise DataError(f"data.source {pattern!r} has an unclosed brace; write lists as {{000..099}}")
    return [pattern]
  items = []
  for part in match[1].split(","):
    span = _RANGE.fullmatch(part)
    if span:
      first, last = int(span[1]), int(span[2])
      width = len(span[1]) if span[1].startswith("0") or len(span[1]) == len(span[2]) else 0
      step = 1 if last >= first else -1
      items += [str(n).zfill(width) for n in range(first, last + step, step)]
    else:
      items.append(part)
  head, tail = pattern[: match.start()], pattern[match.end() :]
  # dict: braces inside braces can name the same file twice
  return list(dict.fromkeys(p for item in items for p in _expand_braces(head + item + tail)))


def stat(path: str) -> Stat:
  """Size and time of change; FileNotFoundError where there is no such file."""
  if not is_remote(path):
    found = os.stat(path)
    return Stat(found.st_size, found.st_mtime_ns)
  try:
    found = _gfile().stat(path)
  except Exception as error:
    raise FileNotFoundError(f"{path}: {_one_line(error)}") from None
  return Stat(found.length, found.mtime_nsec)


def is_dir(path: str) -> bool:
  """Whether a folder is there."""
  return _gfile().isdir(path) if is_remote(path) else os.path.isdir(path)


def exists(path: str) -> bool:
  """Whether a file or folder is there."""
  return _gfile().exists(path) if is_remote(path) else os.path.exists(path)


def list_dir(path: str) -> list[str]:
  """Names in a folder, sorted."""
  return sorted(
    n.rstrip("/") for n in (_gfile().listdir(path) if is_remote(path) else os.listdir(path))
  )


def open_binary(path: str) -> BinaryIO:
  """A seekable binary file, for one thread."""
  return _gfile().GFile(path, "rb") if is_remote(path) else open(path, "rb")


def read_range(path: str, offset: int, size: int) -> bytes:
  """Bytes [offset, offset + size) of a file; BadAudio when the file is absent or ends before that.

  Remote files are fetched in large blocks that stay in memory for a while, so a shard that is read
  through costs one request per block and not one per clip.
  """
  try:
    data = _read_blocks(path, offset, size) if is_remote(path) else _pread(path, offset, size)
  except FileNotFoundError:
    raise BadAudio(f"{path} is gone") from None
  except OSError as error:
    raise BadAudio(f"{path} cannot be read: {error.strerror or error}") from None
  if len(data) != size:
    raise BadAudio(f"{path} ends at byte {offset + len(data)}, before byte {offset + size}")
  return data


class RangeFile(io.RawIOBase):
  """A read-only file inside a local file: bytes [offset, offset + size)."""

  def __init__(self, path: str, offset: int, size: int):
    self._file = open(path, "rb", buffering=0)  # noqa: SIM115
    self._offset, self._size, self._at = offset, size, 0

  def readable(self) -> bool:  # noqa: D102
    return True

  def seekable(self) -> bool:  # noqa: D102
    return True

  def tell(self) -> int:  # noqa: D102
    return self._at

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102
    base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
    self._at = max(0, base + offset)
    return self._at

  def readinto(self, buffer) -> int:  # noqa: D102
    view = memoryview(buffer)[: max(0, self._size - self._at)]
    count = os.preadv(self._file.fileno(), [view], self._offset + self._at) if len(view) else 0
    self._at += count
    return count

  def close(self) -> None:  # noqa: D102
    self._file.close()
    super().close()


def nearest(path: str) -> str:
  """A hint naming files beside a missing path: "; did you mean X?" or "".

  Walks up to the closest folder that exists, so a typo early in a long path is found too.
  """
  if is_remote(path):
    return ""
  path = os.path.abspath(path)
  while (parent := os.path.dirname(path)) != path:
    if os.path.isdir(parent):
      near = difflib.get_close_matches(os.path.basename(path), os.listdir(parent), n=1, cutoff=0.5)
      return f"; did you mean {os.path.join(parent, near[0])}?" if near else f" ({parent} exists)"
    path = parent
  return ""


def _pread(path: str, offset: int, size: int) -> bytes:
  handle = os.open(path, os.O_RDONLY)
  try:
    data = os.pread(handle, size, offset)
    while len(data) < size and (more := os.pread(handle, size - len(data), offset + len(data))):
      data += more  # Linux hands over at most 2 GiB at once
    return data
  finally:
    os.close(handle)


_block_lock = threading.Lock()
_blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()


def _read_blocks(path: str, offset: int, size: int) -> bytes:
  first, last = offset // _BLOCK, max(offset, offset + size - 1) // _BLOCK
  data = b"".join(_block(path, n) for n in range(first, last + 1))
  return data[offset - first * _BLOCK :][:size]


def _block(path: str, number: int) -> bytes:
  key = (path, number)
  with _block_lock:
    if key in _blocks:
      _blocks.move_to_end(key)
      return _blocks[key]
  try:
    with _gfile().GFile(path, "rb") as file:
      file.seek(number * _BLOCK)
      data = file.read(_BLOCK)
  except Exception as error:
    raise BadAudio(f"{path} cannot be read: {_one_line(error)}") from None
  with _block_lock:
    _blocks[key] = data
    while len(_blocks) > _BLOCKS:
      _blocks.popitem(last=False)
  return data


@functools.cache
def _gfile():
  try:
    import tensorflow as tf
  except ImportError:
    raise DataError("remote paths need TensorFlow: pip install tensorflow-cpu") from None
  return tf.io.gfile


def _one_line(error: Exception) -> str:
  return " ".join(str(error).split())[:200]
