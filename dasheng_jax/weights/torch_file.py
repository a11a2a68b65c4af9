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
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.tensors import READABLE, Tensor, held
from dasheng_jax.weights.torch_archive import kind_of, refusal, verified

_STORAGE = {
  "float32": "FloatStorage",
  "float64": "DoubleStorage",
  "float16": "HalfStorage",
  "bfloat16": "BFloat16Storage",
  "int64": "LongStorage",
  "int32": "IntStorage",
  "uint8": "ByteStorage",
  "bool": "BoolStorage",
}
# Classes of the standard library that training scripts leave in their files' settings.
_PATHS = tuple(
  f"{module}.{name}"
  for module in ("pathlib", "pathlib._local")
  for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
)
# A tensor may repeat one stored value over its shape; up to this many bytes of such are believed.
_MOST_REPEATED = 1 << 30
# PyTorch maps tensors straight from the file where they start on this boundary.
_ALIGNMENT = 64
# What PyTorch's unpickler meets in files that are no pickles: any of the stack machine's missteps.
_UNREADABLE = (
  RuntimeError,
  MemoryError,
  ArithmeticError,
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

  bfloat16 becomes float32. Raises WeightsError for a file that is damaged, or would run code.
  """

  def array(tensor: Tensor) -> np.ndarray:
    values = tensor.read()
    return values.astype(np.float32) if tensor.dtype == "bfloat16" else values

  return _mapped(open_torch(path), array)


def open_torch(path: str | os.PathLike) -> dict:
  """As `read_torch`, with a `Tensor` for every tensor, whose values stay in the file until read.

  The checksums of a zip archive are verified first, which PyTorch does not do; files of PyTorch's
  old format have none. Paths that training scripts pickle beside their weights come as text. Raises
  WeightsError for a file that is damaged, or would run code; nothing of it is run.
  """
  path = Path(path)
  zipped = kind_of(path) == "zip"
  try:
    import torch
  except ModuleNotFoundError:
    raise WeightsError(
      f"{path}: reading a .pt file needs PyTorch; "
      "install the extra [torch], or use a .safetensors file"
    ) from None
  # A mapped file gives the raw bytes of its members, which are the values where none is compressed.
  mapped = verified(path) if zipped else None
  try:
    allowed: list = [(_path_text, name) for name in _PATHS]
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
      warnings.simplefilter("ignore")
      loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    content = _converted(loaded, torch, path, "")
  except WeightsError:
    raise
  except pickle.UnpicklingError as error:
    raise WeightsError(refusal(path, str(error))) from None
  except _UNREADABLE as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    if isinstance(error, RecursionError):
      reason = "its contents are nested too deeply, or within themselves"
    raise WeightsError(
      f"{path}: not a readable PyTorch file ({reason}); download it again"
    ) from None
  if not isinstance(content, dict):
    raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict")
  return content


def _converted(node: Any, torch: Any, path: Path, name: str) -> Any:
  """Loaded contents with text for keys and a `Tensor` for every tensor; name: their own key."""
  if isinstance(node, torch.Tensor):
    return _as_tensor(node, torch, f"{path}: {name or 'its tensor'}")
  if isinstance(node, Mapping):
    return {str(key): _converted(value, torch, path, str(key)) for key, value in node.items()}
  if isinstance(node, list | tuple | set):
    return [_converted(value, torch, path, name) for value in node]
  return node


def _as_tensor(tensor: Any, torch: Any, where: str) -> Tensor:
  dtype = str(tensor.dtype).removeprefix("torch.")
  if tensor.is_quantized or tensor.is_nested or tensor.layout is not torch.strided:
    raise WeightsError(
      f"{where} is a sparse, nested or quantized tensor; re-save it as a plain one"
    )
  if tensor.is_meta:
    raise WeightsError(f"{where} has no values (device meta); re-save it from a loaded model")
  if dtype not in READABLE:
    raise WeightsError(f"{where} is of type {dtype}, which is not supported; re-save it as float32")
  size = tensor.numel() * tensor.element_size()
  if size > max(_MOST_REPEATED, tensor.untyped_storage().nbytes()):
    raise WeightsError(
      f"{where} claims {size:,} bytes, more than the file holds of it; foreign or damaged"
    )

  def read() -> np.ndarray:
    plain = tensor.detach().resolve_neg()
    if dtype != "bfloat16":
      return plain.numpy()
    import ml_dtypes

    return plain.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)

  return Tensor(tuple(tensor.shape), dtype, read)


def _mapped(node, array: Callable[[Tensor], np.ndarray]):
  if isinstance(node, Tensor):
    return array(node)
  if isinstance(node, dict):
    return {key: _mapped(value, array) for key, value in node.items()}
  return [_mapped(value, array) for value in node] if isinstance(node, list) else node


def _path_text(*parts: str) -> str:
  """What stands for a pickled path: no path is made."""
  return "/".join(map(str, parts)).replace("//", "/")


def write_torch(path: str | os.PathLike, content: Mapping) -> None:
  """Write a `.pt` file: nested dicts and lists of arrays or `Tensor`s, text, numbers and None.

  `torch.load(path, weights_only=True)` gives the same tree with tensors. The file appears complete
  or not at all.
  """
  path = Path(path)
  tensors: list[Tensor] = []
  program = b"\x80\x02" + _pickled(content, tensors) + b"."
  temporary = path.with_name(path.name + ".partial")
  try:
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
      _add(archive, "data.pkl", program, path.stem)
      _add(archive, "byteorder", b"little", path.stem)
      for number, tensor in enumerate(tensors):
        array = np.asarray(tensor.read(), order="C")
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


def _pickled(node, tensors: list[Tensor]) -> bytes:
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
  if isinstance(node, Tensor):
    return _tensor(node, tensors)
  if isinstance(node, Mapping):
    items = b"".join(_text(key) + _pickled(value, tensors) for key, value in node.items())
    return b"}(" + items + b"u"
  if isinstance(node, list | tuple):
    return b"](" + b"".join(_pickled(value, tensors) for value in node) + b"e"
  if isinstance(node, np.ndarray | np.generic):
    return _tensor(held(np.asarray(node)), tensors)
  raise WeightsError(f"a {type(node).__name__} cannot be written to a .pt file")


def _tensor(tensor: Tensor, tensors: list[Tensor]) -> bytes:
  if tensor.dtype not in _STORAGE:
    raise WeightsError(f"an array of type {tensor.dtype} cannot be written to a .pt file")
  number = len(tensors)
  tensors.append(tensor)
  storage = b"ctorch\n" + _STORAGE[tensor.dtype].encode() + b"\n"
  key = b"(" + _text("storage") + storage + _text(str(number)) + _text("cpu")
  size = int(np.prod(tensor.shape, dtype=np.int64))
  strides = [int(np.prod(tensor.shape[i + 1 :], dtype=np.int64)) for i in range(len(tensor.shape))]
  return (
    b"ctorch._utils\n_rebuild_tensor_v2\n("
    + (key + _integer(size) + b"tQ")
    + _integer(0)
    + (b"(" + b"".join(map(_integer, tensor.shape)) + b"t")
    + (b"(" + b"".join(map(_integer, strides)) + b"t")
    + b"\x89"
    + b"ccollections\nOrderedDict\n)R"
    + b"tR"
  )
