"""PyTorch's `.pt` file: read through PyTorch's restricted loader, written without PyTorch.

A `.pt` file is an uncompressed zip of a pickle and one raw file per tensor. Writing needs only the
few opcodes below, so a training machine without PyTorch can still hand out files that PyTorch users
load. Reading a pickle safely is PyTorch's own business and stays there (`weights_only=True`: no
code of the file is ever run).
"""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.tensors import Tensor, held

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

  bfloat16 becomes float32. Raises WeightsError for a file that is damaged, or would run code.
  """

  def array(tensor: Tensor) -> np.ndarray:
    values = tensor.read()
    return values.astype(np.float32) if tensor.dtype == "bfloat16" else values

  return _mapped(open_torch(path), array)


def open_torch(path: str | os.PathLike) -> dict:
  """As `read_torch`, with a `Tensor` for every tensor, whose values stay in the file until read.

  The file's own checksums are verified first, which PyTorch does not do. Paths that training
  scripts pickle beside their weights come as text. Raises WeightsError for a file that is damaged,
  or would run code; nothing of it is run.
  """
  try:
    import torch
  except ModuleNotFoundError:
    raise WeightsError(
      f"{path}: reading a .pt file needs PyTorch; "
      "install the extra [torch], or use a .safetensors file"
    ) from None
  zipped = zipfile.is_zipfile(path)
  if zipped:
    _verify(Path(path))
  try:
    with torch.serialization.safe_globals([(_path_text, name) for name in _PATHS]):
      content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
  except pickle.UnpicklingError as error:
    raise WeightsError(_refusal(Path(path), str(error))) from None
  except _UNREADABLE as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    raise WeightsError(
      f"{path}: not a readable PyTorch file ({reason}); download it again"
    ) from None

  def as_tensor(tensor) -> Tensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided or tensor.is_quantized:
      raise WeightsError(f"{path}: holds a sparse or quantized tensor; re-save it as a plain one")

    def read() -> np.ndarray:
      plain = tensor.detach()
      if dtype != "bfloat16":
        return plain.numpy()
      import ml_dtypes

      return plain.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)

    return Tensor(tuple(tensor.shape), dtype, read)

  def converted(node):
    if isinstance(node, torch.Tensor):
      return as_tensor(node)
    if isinstance(node, Mapping):
      return {key: converted(value) for key, value in node.items()}
    if isinstance(node, list | tuple | set):
      return [converted(value) for value in node]
    return node

  content = converted(content)
  if not isinstance(content, dict):
    raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict")
  return content


def _mapped(node, array: Callable[[Tensor], np.ndarray]):
  if isinstance(node, Tensor):
    return array(node)
  if isinstance(node, dict):
    return {key: _mapped(value, array) for key, value in node.items()}
  return [_mapped(value, array) for value in node] if isinstance(node, list) else node


def _path_text(*parts: str) -> str:
  """What stands for a pickled path: no path is made."""
  return "/".join(map(str, parts)).replace("//", "/")


def _verify(path: Path) -> None:
  """WeightsError where a member's checksum is wrong."""
  try:
    with zipfile.ZipFile(path) as archive:
      wrong = archive.testzip()
  except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
    reason = str(error).splitlines()[0][:120]
    raise WeightsError(
      f"{path}: not a readable PyTorch file ({reason}); download it again"
    ) from None
  if wrong:
    raise WeightsError(f"{path}: damaged: the checksum of {wrong} is wrong; download it again")


def _refusal(path: Path, reason: str) -> str:
  """Which name a refused pickle asks for and behind which key, from its opcodes alone."""
  found = next((line.strip() for line in reason.splitlines() if "global" in line.lower()), "")
  what = found[:200] or "unsafe pickle"
  named = _first_foreign_global(path)
  if named:
    what = f"{named[0]} under the key {named[1]!r}" if named[1] else named[0]
  return (
    f"{path}: refused, since loading it would run code of the file ({what}); "
    "re-save its state dict alone with torch.save(model.state_dict(), FILE)"
  )


def _first_foreign_global(path: Path) -> tuple[str, str] | None:
  """(module.name, text before it) of the first name in the pickle that no tensor needs."""
  try:
    with zipfile.ZipFile(path) as archive:
      member = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
      program = archive.read(member)
    texts = [""]
    for code, value, _ in pickletools.genops(program):
      if "UNICODE" in code.name:
        texts = [*texts[-2:], str(value)]
      elif code.name == "GLOBAL" or code.name == "STACK_GLOBAL":
        text = code.name == "GLOBAL"
        full = str(value).replace(" ", ".", 1) if text else ".".join(texts[-2:])
        if not full.startswith(("torch", "collections.OrderedDict")) and full not in _PATHS:
          return full, texts[-1] if text else texts[0]
  except Exception:  # a hint for the message alone, from a file that is not to be trusted
    return None
  return None


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
