"""One tensor from PyTorch's `.pt` file, without PyTorch and without running anything of it.

A `.pt` file is a zip archive: a pickle that says what the tensor is like, and its numbers as they
are in memory. The pickle is read by an unpickler that knows five names and no other; what it makes
is looked at as if anyone could have written it.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.errors import DataError

# Storages by their names in PyTorch. Two bytes of bfloat16 are the upper half of a float32.
_STORAGES: dict[str, np.dtype] = {
  "DoubleStorage": np.dtype("<f8"),
  "FloatStorage": np.dtype("<f4"),
  "HalfStorage": np.dtype("<f2"),
  "BFloat16Storage": np.dtype("<u2"),
}
# What pickles of tensors, and of what else people save, consist of. Others can claim more memory
# than there is, such as a place in the unpickler's notes that lies beyond it.
_CODES = frozenset(
  (
    *("PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
    *("BINPUT", "BINGET", "MEMOIZE", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
    *("LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1"),
    *("TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
  )
)
_MOST_PICKLE_BYTES = 1 << 20
_MOST_BYTES = 1 << 31


class _Storage(NamedTuple):
  dtype: np.dtype
  key: str


class _Strided(NamedTuple):
  storage: Any
  offset: Any
  shape: Any
  strides: Any


def read_tensor(path: Path) -> np.ndarray:
  """The one floating-point tensor of a `.pt` file, as f32 of its shape.

  Raises:
    DataError: absent, damaged, of the format before PyTorch 1.6, with more in it than one tensor of
      floats, or with a pickle that asks for anything else.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      return _read(archive, path)
  except DataError:
    raise
  except zipfile.BadZipFile as error:
    raise DataError(
      f"teacher: {str(path)!r} is damaged, or no .pt file as PyTorch writes it since 1.6 "
      f"({_shown(error)}); save it anew with torch.save(tensor, FILE)"
    ) from None
  except Exception as error:  # archives and pickles from outside can fail in any way
    raise DataError(f"teacher: {str(path)!r} is no sound .pt file ({_shown(error)})") from None


def _read(archive: zipfile.ZipFile, path: Path) -> np.ndarray:
  programs = [name for name in archive.namelist() if name.endswith("/data.pkl")]
  if len(programs) != 1 or archive.getinfo(programs[0]).file_size > _MOST_PICKLE_BYTES:
    raise DataError(f"teacher: {str(path)!r} is no .pt file of one tensor")
  root = programs[0].removesuffix("data.pkl")
  program = archive.read(programs[0])
  foreign = {code.name for code, _, _ in pickletools.genops(program)} - _CODES
  if foreign:
    raise DataError(f"teacher: {str(path)!r} is no .pt file of one tensor (it has {min(foreign)})")
  try:
    found = _Tensors(io.BytesIO(program)).load()
  except _Refused as error:
    raise DataError(f"teacher: {str(path)!r} {error}; nothing of it was executed") from None
  if not isinstance(found, _Strided) or not isinstance(found.storage, _Storage):
    raise DataError(
      f"teacher: {str(path)!r} holds a {type(found).__name__}, not one tensor; "
      "save the tensor alone"
    )
  order = f"{root}byteorder"
  if order in archive.namelist() and archive.read(order) != b"little":
    raise DataError(f"teacher: {str(path)!r} was written on a big-endian machine; save it anew")
  member = f"{root}data/{found.storage.key}"
  if archive.getinfo(member).file_size > _MOST_BYTES:
    raise DataError(f"teacher: {str(path)!r} holds more than {_MOST_BYTES >> 30} GB")
  return _laid_out(np.frombuffer(archive.read(member), found.storage.dtype), found, path)


def _laid_out(values: np.ndarray, tensor: _Strided, path: Path) -> np.ndarray:
  """The stored numbers in the tensor's shape; DataError where they are not all there."""
  shape, strides, offset = tensor.shape, tensor.strides, tensor.offset
  whole = all(
    isinstance(x, tuple) and all(type(n) is int and n >= 0 for n in x) for x in tensor[2:]
  )
  sound = whole and type(offset) is int and offset >= 0 and len(shape) == len(strides)
  last = (
    offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if sound else 0
  )
  if not sound or math.prod(shape) > len(values) or (math.prod(shape) and last >= len(values)):
    raise DataError(f"teacher: {str(path)!r} has no numbers for all of its tensor; damaged")
  steps = [step * values.itemsize for step in strides]
  view = np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
  if values.dtype.kind == "u":
    return (view.astype(np.uint32) << 16).view(np.float32)
  return view.astype(np.float32)


def _shown(text: object) -> str:
  """Text that a file may have had a hand in: in one line, and not for ever."""
  return str(text).encode("unicode_escape").decode()[:120]


class _Refused(Exception):
  """A pickle wants more than a tensor needs."""


class _Rebuild:
  """Stands for PyTorch's function that makes a tensor; only notes what it is called with."""

  __slots__ = ()

  def __call__(self, storage, offset, shape, strides, *rest) -> _Strided:
    del rest  # whether it takes gradients, and its hooks
    return _Strided(storage, offset, shape, strides)


class _Tensors(pickle.Unpickler):
  """Unpickles a tensor's description; any name that it does not need is refused."""

  find_class: Callable[[str, str], Any]

  def find_class(self, module: str, name: str) -> Any:  # type: ignore[no-redef]
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
      return _Rebuild()
    if (module, name) == ("collections", "OrderedDict"):  # of hooks, always empty
      return collections.OrderedDict
    if module == "torch" and name in _STORAGES:
      return name
    raise _Refused(f"asks for {_shown(f'{module}.{name}')}, which a tensor of floats does not need")

  def persistent_load(self, pid: Any) -> Any:
    kind, storage, key, *_ = pid
    if kind != "storage" or storage not in _STORAGES or not isinstance(key, str):
      raise _Refused("refers to something that is no storage of floats")
    return _Storage(_STORAGES[storage], key)
