"""Files by path or URL: listing, brace lists, stat, and reads of a byte range.

Local paths use the operating system. A path with a scheme ("gs://...") goes through TensorFlow's
file systems, imported when the first such path is met; what these cannot do is an OSError too.
"""

import contextlib
import difflib
import errno
import functools
import glob
import io
import os
import re
import stat as modes
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pipelines import crew
from pipelines.errors import BadAudio, DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BLOCK = 8 << 20  # bytes that one remote request fetches
_BLOCKS = 32  # remote blocks kept in memory


# Opening a pipe waits for its other end, unless asked not to; files take no notice.
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class Stat(NamedTuple):
  """Size in bytes, time of last change in nanoseconds, and what it is in place of a file, or ""."""

  size: int
  mtime: int
  strange: str = ""


@runtime_checkable
class BinaryFile(Protocol):
  """What is asked of an open file. TensorFlow's are no BinaryIO: their `seek` returns nothing."""

  def seek(self, offset: int, whence: int = 0, /) -> Any:
    """Moves to a byte counted from the start, from here or from the end."""
    ...

  def tell(self) -> int:
    """The byte that comes next."""
    ...

  def read(self, size: int = -1, /) -> bytes:
    """At most that many bytes; all that follow without a size."""
    ...

  def __enter__(self) -> "BinaryFile": ...

  def __exit__(self, *exc) -> None: ...


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
      with _os_errors(name):
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
    return stat_of(os.stat(path))
  try:
    found = _gfile().stat(path)
  except Exception as error:
    raise FileNotFoundError(f"{path}: {_one_line(error)}") from None
  return Stat(found.length, found.mtime_nsec)


def stat_of(found: os.stat_result) -> Stat:
  """What the system says of a local file, in our terms."""
  return Stat(found.st_size, found.st_mtime_ns, strange(found.st_mode))


def strange(mode: int) -> str:
  """What a mode is that of in place of a regular file: "a pipe", "a device" and so on; else ""."""
  if modes.S_ISREG(mode):
    return ""
  kinds = ((modes.S_ISFIFO, "pipe"), (modes.S_ISSOCK, "socket"), (modes.S_ISDIR, "folder"))
  return f"a {next((kind for test, kind in kinds if test(mode)), 'device')}"


def is_dir(path: str) -> bool:
  """Whether a folder is there."""
  with _os_errors(path):
    return _gfile().isdir(path) if is_remote(path) else os.path.isdir(path)


def exists(path: str) -> bool:
  """Whether a file or folder is there."""
  with _os_errors(path):
    return _gfile().exists(path) if is_remote(path) else os.path.exists(path)


def list_dir(path: str) -> list[str]:
  """Names in a folder, sorted."""
  with _os_errors(path):
    names = _gfile().listdir(path) if is_remote(path) else os.listdir(path)
  return sorted(n.rstrip("/") for n in names)


def open_binary(path: str) -> BinaryFile:
  """A seekable binary file, for one thread; BadAudio for a pipe, a device and the like."""
  if is_remote(path):
    return _RemoteFile(path)
  return os.fdopen(open_handle(path), "rb")


def open_handle(path: str) -> int:
  """A handle of a local regular file, never waiting for it; BadAudio for anything else."""
  handle = os.open(path, _OPEN)
  if kind := strange(os.fstat(handle).st_mode):
    os.close(handle)
    raise BadAudio(f"{path} is {kind}, no regular file")
  return handle


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
  """A read-only file inside a local file: bytes [offset, offset + size).

  BadAudio where the file is gone, or is none.
  """

  def __init__(self, path: str, offset: int, size: int):
    try:
      handle = open_handle(path)
    except FileNotFoundError:
      raise BadAudio(f"{path} is gone") from None
    except OSError as error:
      raise BadAudio(f"{path} cannot be read: {error.strerror or error}") from None
    self._file = os.fdopen(handle, "rb", buffering=0)
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
    try:
      count = os.preadv(self._file.fileno(), [view], self._offset + self._at) if len(view) else 0
    except OSError:  # libsndfile calls this, and can be told of no error but an early end
      count = 0
    self._at += count
    return count

  @property
  def size(self) -> int:
    """Bytes."""
    return self._size

  def read_at(self, offset: int, most: int) -> bytes:
    """The bytes from `offset` on, fewer at the end; where the file stands stays as it is."""
    most = max(0, min(most, self._size - offset))
    try:
      return os.pread(self._file.fileno(), most, self._offset + offset) if most else b""
    except OSError:
      return b""

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
  if offset < 0 or size < 0:
    raise BadAudio(f"{path} has no bytes {offset} to {offset + size}; its index is damaged")
  handle = open_handle(path)
  try:
    # A size from a damaged index would be allocated before the first byte is read.
    size = min(size, max(0, os.fstat(handle).st_size - offset))
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
  with open_binary(path) as file:
    file.seek(number * _BLOCK)
    data = file.read(_BLOCK)
  crew.alive()
  with _block_lock:
    _blocks[key] = data
    while len(_blocks) > _BLOCKS:
      _blocks.popitem(last=False)
  return data


class _RemoteFile:
  """A file of TensorFlow's whose errors are OSErrors; it is opened by the first read."""

  def __init__(self, path: str):
    self._path = path
    with _os_errors(path):
      self._file = _gfile().GFile(path, "rb")

  def seek(self, offset: int, whence: int = 0) -> None:
    with _os_errors(self._path):
      self._file.seek(offset, whence)

  def tell(self) -> int:
    with _os_errors(self._path):
      return self._file.tell()

  def read(self, size: int = -1) -> bytes:
    with _os_errors(self._path):
      return self._file.read(size)

  def seekable(self) -> bool:  # zipfile asks
    return True

  def __enter__(self) -> "_RemoteFile":
    return self

  def __exit__(self, *exc) -> None:
    with _os_errors(self._path):
      self._file.close()


@contextlib.contextmanager
def _os_errors(path: str) -> Iterator[None]:
  """Turns TensorFlow's errors on a remote path, which are of no kind of Python's, into OSErrors."""
  if not is_remote(path):
    yield
    return
  failures = _tensorflow().errors
  try:
    yield
  except failures.OpError as error:
    absent = isinstance(error, failures.NotFoundError)  # then Python makes it FileNotFoundError
    raise OSError(errno.ENOENT if absent else errno.EIO, _one_line(error), path) from None


def _gfile():
  return _tensorflow().io.gfile


@functools.cache
def _tensorflow():
  try:
    import tensorflow as tf
  except ImportError:
    raise DataError("remote paths need TensorFlow: pip install tensorflow-cpu") from None
  return tf


def _one_line(error: Exception) -> str:
  return " ".join(str(error).split())[:200]
