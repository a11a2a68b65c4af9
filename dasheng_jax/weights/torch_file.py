"""PyTorch's `.pt` file: read through PyTorch's restricted loader, written without PyTorch.

A `.pt` file is an uncompressed zip of a pickle and one raw file per tensor. Writing needs only the
few opcodes below, so a training machine without PyTorch can still hand out files that PyTorch users
load. Reading a pickle safely is PyTorch's own business and stays there (`weights_only=True`: no
code of the file is ever run).
"""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dasheng_jax.errors import WeightsError

_STORAGE = {
  "float32": "FloatStorage",
  "float64": "DoubleStorage",
  "float16": "HalfStorage",
  "int64": "LongStorage",
  "int32": "IntStorage",
  "uint8": "ByteStorage",
  "bool": "BoolStorage",
}
# PyTorch maps tensors straight from the file where they start on this boundary.
_ALIGNMENT = 64
# What PyTorch's unpickler meets in files that are no pickles: any of the stack machine's missteps.
_UNREADABLE = (
  RuntimeError,
  EOFError,
  ValueError,
  LookupError,
  AttributeError,
  TypeError,
  AssertionError,
  struct.error,
  zipfile.BadZipFile,
)


def read_torch(path: str | os.PathLike) -> dict:
  """Contents of a `.pt` file with every tensor as a numpy array; needs the extra [torch].

  Raises WeightsError for a file that is damaged, or would run code.
  """
  try:
    import torch
  except ModuleNotFoundError:
    raise WeightsError(
      f"{path}: reading a .pt file needs PyTorch; "
      "install the extra [torch], or use a .safetensors file"
    ) from None
  try:
    content = torch.load(path, map_location="cpu", weights_only=True)
  except pickle.UnpicklingError as error:
    reason = next((line for line in str(error).splitlines() if "global" in line.lower()), "")
    raise WeightsError(
      f"{path}: refused, since loading it would run code of the file "
      f"({reason.strip() or 'unsafe pickle'}); "
      "re-save its state dict alone with torch.save(model.state_dict(), FILE)"
    ) from None
  except _UNREADABLE as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    raise WeightsError(
      f"{path}: not a readable PyTorch file ({reason}); download it again"
    ) from None

  def as_numpy(node):
    if isinstance(node, torch.Tensor):
      tensor = node.detach()
      return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    if isinstance(node, Mapping):
      return {key: as_numpy(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
      return type(node)(as_numpy(value) for value in node)
    return node

  content = as_numpy(content)
  if not isinstance(content, dict):
    raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict")
  return content


def write_torch(path: str | os.PathLike, content: Mapping) -> None:
  """Write nested dicts of numpy arrays, strings, numbers, booleans, None and lists as a `.pt` file.

  `torch.load(path, weights_only=True)` gives the same tree with tensors. The file appears complete
  or not at all.
  """
  path = Path(path)
  tensors: list[np.ndarray] = []
  program = b"\x80\x02" + _pickled(content, tensors) + b"."
  temporary = path.with_name(path.name + ".partial")
  try:
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
      _add(archive, "data.pkl", program, path.stem)
      _add(archive, "byteorder", b"little", path.stem)
      for number, array in enumerate(tensors):
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        _add(archive, f"data/{number}", little.tobytes(), path.stem)
      _add(archive, "version", b"3\n", path.stem)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _add(archive: zipfile.ZipFile, name: str, data: bytes, root: str) -> None:
  info = zipfile.ZipInfo(f"{root}/{name}")
  # The local header is 30 bytes, then the name, then this padding field (4 bytes of its own), then
  # the data.
  start = archive.start_dir + 30 + len(info.filename.encode()) + 4
  padding = -start % _ALIGNMENT
  info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
  archive.writestr(info, data)


def _text(value: str) -> bytes:
  raw = value.encode()
  return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
  if -(2**31) <= value < 2**31:
    return b"J" + struct.pack("<i", value)
  raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
  return b"\x8a" + bytes([len(raw)]) + raw


def _pickled(node, tensors: list[np.ndarray]) -> bytes:
  """Opcodes (pickle protocol 2) that push `node`; arrays go to `tensors`, numbered."""
  if node is None:
    return b"N"
  if isinstance(node, bool):
    return b"\x88" if node else b"\x89"
  if isinstance(node, int):
    return _integer(node)
  if isinstance(node, float):
    return b"G" + struct.pack(">d", node)
  if isinstance(node, str):
    return _text(node)
  if isinstance(node, Mapping):
    items = b"".join(_text(key) + _pickled(value, tensors) for key, value in node.items())
    return b"}(" + items + b"u"
  if isinstance(node, list | tuple):
    return b"](" + b"".join(_pickled(value, tensors) for value in node) + b"e"
  if isinstance(node, np.ndarray | np.generic):
    return _tensor(np.asarray(node), tensors)
  raise WeightsError(f"a {type(node).__name__} cannot be written to a .pt file")


def _tensor(array: np.ndarray, tensors: list[np.ndarray]) -> bytes:
  if array.dtype.name not in _STORAGE:
    raise WeightsError(f"an array of type {array.dtype} cannot be written to a .pt file")
  number = len(tensors)
  tensors.append(np.asarray(array, order="C"))
  storage = b"ctorch\n" + _STORAGE[array.dtype.name].encode() + b"\n"
  key = b"(" + _text("storage") + storage + _text(str(number)) + _text("cpu")
  strides = [stride // array.itemsize for stride in tensors[-1].strides]
  return (
    b"ctorch._utils\n_rebuild_tensor_v2\n("
    + (key + _integer(array.size) + b"tQ")
    + _integer(0)
    + (b"(" + b"".join(map(_integer, array.shape)) + b"t")
    + (b"(" + b"".join(map(_integer, strides if array.ndim else [])) + b"t")
    + b"\x89"
    + b"ccollections\nOrderedDict\n)R"
    + b"tR"
  )
