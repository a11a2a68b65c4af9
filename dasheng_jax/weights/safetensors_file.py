"""`.safetensors` files in and out, without PyTorch: whole, tensor by tensor, or in shards.

Reading is the safetensors library's. Its writer wants all arrays at once; the format is a header of
JSON and the raw values behind it, so we write it ourselves and hold one tensor at a time.
"""

from __future__ import annotations

import functools
import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.config_json import parsed_json
from dasheng_jax.weights.tensors import Tensor, held
from dasheng_jax.weights.torch_archive import is_torch

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# NumPy's names and the format's.
_CODES = {
  "float64": "F64",
  "float32": "F32",
  "float16": "F16",
  "bfloat16": "BF16",
  "int64": "I64",
  "int32": "I32",
  "int16": "I16",
  "int8": "I8",
  "uint8": "U8",
  "bool": "BOOL",
}
_NAMES = {code: name for name, code in _CODES.items()}
# Values start on this boundary, so that readers can map them.
_ALIGNMENT = 8


def open_safetensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
  """(tensors by name, the file's notes); nothing but the header is read yet.

  Raises WeightsError for a file that is damaged or no such file.
  """
  from safetensors import SafetensorError, safe_open

  path = Path(path)
  try:
    if is_torch(path):
      raise WeightsError(
        f"{path}: not a readable safetensors file but a PyTorch file; let its name end in .pt"
      )
    with safe_open(path, framework="numpy") as file:  # which verifies the header
      notes = file.metadata() or {}
    with open(path, "rb") as raw:
      (length,) = struct.unpack("<Q", raw.read(8))
      header = json.loads(raw.read(length))
    tensors = {}
    for name, entry in header.items():
      if name != "__metadata__":
        shape, start = tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
        dtype = _NAMES.get(entry["dtype"])
        if dtype is None:
          raise WeightsError(
            f"{path}: {name} is of type {entry['dtype']}, which is not supported; save it as F32"
          )
        tensors[name] = Tensor(shape, dtype, functools.partial(_values, path, dtype, shape, start))
    return tensors, notes
  except WeightsError:
    raise
  except (SafetensorError, OSError, TypeError, KeyError, ValueError, struct.error) as error:
    raise _unreadable(path, error) from None


def _values(path: str | os.PathLike, dtype: str, shape: tuple[int, ...], start: int) -> np.ndarray:
  """Read, not mapped: the pages of a mapped file count as this process's memory."""
  count = int(np.prod(shape, dtype=np.int64))
  kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype).newbyteorder("<")
  try:
    values = np.fromfile(path, kind, count, offset=start)
  except OSError as error:
    raise _unreadable(path, error) from None
  if values.size != count:
    raise WeightsError(f"{path}: became shorter while it was read; fetch it again")
  return values.reshape(shape)


def _unreadable(path: str | os.PathLike, error: Exception) -> WeightsError:
  reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
  return WeightsError(f"{path}: not a readable safetensors file ({reason}); download it again")


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """(arrays by name, the file's notes); WeightsError for a file that is damaged or no such file."""
  tensors, notes = open_safetensors(path)
  return {name: tensor.read() for name, tensor in tensors.items()}, notes


def open_sharded(index: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
  """As `open_safetensors`, of the shards that an index names.

  Shards must lie beside the index, which refuses names with a folder in them, and hold exactly the
  tensors that it places there.
  """
  try:
    homes = parsed_json(index.read_text())["weight_map"]
    files = sorted(set(homes.values()))
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    raise WeightsError(f"{index}: not a readable index of shards; download it again") from None
  tensors: dict[str, Tensor] = {}
  notes: dict[str, str] = {}
  for file in files:
    if not isinstance(file, str) or Path(file).name != file:
      raise WeightsError(f"{index}: names {file!r}, and shards must lie beside their index")
    if not (index.parent / file).is_file():
      raise WeightsError(f"{index.parent / file}: no such shard, though {index.name} names it")
    held_here, its_notes = open_safetensors(index.parent / file)
    if stray := [name for name in held_here if homes.get(name) != file]:
      raise WeightsError(
        f"{index.parent / file}: holds {stray[0]}, which {index.name} does not place there; "
        "download the index and the shards again"
      )
    tensors |= held_here
    notes |= its_notes
  if missing := [name for name in homes if name not in tensors]:
    raise WeightsError(f"{index}: no shard holds {missing[0]}; download the shards again")
  return {name: tensors[name] for name in homes}, notes


def write_safetensors(
  path: str | os.PathLike,
  arrays: Mapping[str, np.ndarray] | Mapping[str, Tensor],
  notes: Mapping[str, str],
) -> None:
  """Writes a file whole or not at all; notes are text beside the arrays."""
  tensors = {
    name: x if isinstance(x, Tensor) else held(np.asarray(x)) for name, x in arrays.items()
  }
  header: dict = {"__metadata__": {"format": "pt", **notes}}
  end = 0
  for name, tensor in tensors.items():
    if tensor.dtype not in _CODES:
      raise WeightsError(f"{path}: {name} is {tensor.dtype}, which safetensors cannot hold")
    start, end = end, end + tensor.bytes
    header[name] = {
      "dtype": _CODES[tensor.dtype],
      "shape": list(tensor.shape),
      "data_offsets": [start, end],
    }
  text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
  text += b" " * (-len(text) % _ALIGNMENT)
  path = Path(path)
  temporary = path.with_name(path.name + ".partial")
  try:
    with temporary.open("wb") as file:
      file.write(struct.pack("<Q", len(text)) + text)
      for name, tensor in tensors.items():
        values = np.asarray(tensor.read())
        if values.shape != tensor.shape or values.dtype.name != tensor.dtype:
          raise WeightsError(f"{path}: {name} changed while it was written")
        file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_sharded(
  folder: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str], limit: int
) -> list[Path]:
  """Files of at most `limit` bytes of values each (or one tensor), and an index if several.

  Names as Hugging Face's tools expect: model.safetensors, or model-00001-of-00003.safetensors and
  model.safetensors.index.json.
  """
  shards = _shards(tensors, limit)
  if len(shards) == 1:
    write_safetensors(folder / WHOLE, tensors, notes)
    return [folder / WHOLE]
  files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
  for file, names in zip(files, shards, strict=True):
    write_safetensors(folder / file, {name: tensors[name] for name in names}, notes)
  homes = {name: file for file, names in zip(files, shards, strict=True) for name in names}
  total = sum(tensor.bytes for tensor in tensors.values())
  index = {"metadata": {"total_size": total}, "weight_map": homes}
  (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
  return [folder / file for file in (*files, INDEX)]


def _shards(tensors: Mapping[str, Tensor], limit: int) -> Sequence[list[str]]:
  shards: list[list[str]] = [[]]
  room = limit
  for name, tensor in tensors.items():
    if shards[-1] and tensor.bytes > room:
      shards.append([])
      room = limit
    shards[-1].append(name)
    room -= tensor.bytes
  return shards
