"""Writing what was found: one file, a folder as Hugging Face's tools expect, or our own folder.

Every destination appears whole or not at all: it is written beside its place under another name
and renamed. Tensors pass through one at a time.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights import folder as folders
from dasheng_jax.weights.files import write_official
from dasheng_jax.weights.found import Found
from dasheng_jax.weights.names import FRONT_END
from dasheng_jax.weights.record import as_note, beside, make_record
from dasheng_jax.weights.safetensors_file import write_safetensors, write_sharded
from dasheng_jax.weights.table import LAYER, flatten, from_torch, unflatten
from dasheng_jax.weights.tensors import Arrays, Tensor, held
from dasheng_jax.weights.torch_file import write_torch
from experiments.conversion.card import config_json, model_card

Kind = Literal["orbax", "safetensors", "torch", "huggingface"]
Dtype = Literal["float32", "bfloat16", "float16"]
SUFFIXES = {"safetensors": ".safetensors", "torch": ".pt"}
# Largest finite number of half precision.
_HALF_MAX = 65504.0


def kind_of(dest: Path, asked: str) -> Kind:
  """The kind that --to names, or that the suffix of DEST does; WeightsError where neither does."""
  by_suffix = {suffix: kind for kind, suffix in SUFFIXES.items()}
  kind = asked or by_suffix.get(dest.suffix, "")
  if kind not in get_args(Kind):
    raise WeightsError(f"{dest}: its name tells no kind; pass --to {'|'.join(get_args(Kind))}")
  return cast(Kind, kind)


def check_dest(dest: Path, kind: Kind, overwrite: bool) -> None:
  """WeightsError where DEST cannot be written, before anything is read."""
  suffix = SUFFIXES.get(kind)
  if suffix and dest.suffix != suffix:
    raise WeightsError(f"{dest}: --to {kind} writes one file; end its name in {suffix}")
  if not suffix and dest.suffix in (".safetensors", ".pt"):
    raise WeightsError(f"{dest}: --to {kind} writes a folder; leave {dest.suffix} out")
  for file in (dest, beside(dest), card_of(dest)) if suffix else (dest,):
    if file.exists() and not overwrite:
      raise WeightsError(f"{file}: is there already; pass --overwrite or another name")
  # Many folders hold a config.json: only one that we wrote, or an empty one, may go.
  if (
    dest.is_dir() and any(dest.iterdir()) and not folders.our_part(dest, folders.read_config(dest))
  ):
    raise WeightsError(f"{dest}: is a folder of something else; it is not overwritten")
  if not dest.parent.is_dir():
    raise WeightsError(f"{dest.parent}: no such folder; make it first")


def write(
  dest: Path, kind: Kind, found: Found, *, dtype: Dtype, shard_bytes: int, about: Mapping[str, str]
) -> list[Path]:
  """Writes DEST with its model card and config.json; returns the files, for the user to see.

  about: what the card says of the source. Raises WeightsError for values that the type cannot hold.
  """
  tensors = official_tensors(found, dtype)
  if kind in SUFFIXES:
    return _file(dest, kind, found, tensors, about)
  with _whole_folder(dest) as folder:
    record: dict[str, list] = {}
    if kind == "orbax":
      record = folders.write_state(folder, _parts(found, tensors))
    else:
      write_sharded(folder, hub_names(found, tensors), {}, shard_bytes)
    config = config_json(found, about, record)
    (folder / folders.CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (folder / "README.md").write_text(model_card(found, dest.name, about, kind))
  return sorted(path for path in dest.rglob("*") if path.parent == dest)


def _parts(found: Found, tensors: Mapping[str, Tensor]) -> Iterator[dict[str, np.ndarray]]:
  """Our arrays in groups, each made when it is asked for."""
  shapes = flatten(found.target)
  by_path = {rule.ours: rule for rule in found.rules}
  state = Arrays(tensors)
  for paths in folders.parts_of({path: math.prod(x.shape) * 4 for path, x in shapes.items()}):
    target = unflatten({path: shapes[path] for path in paths})
    rules = [by_path[path] for path in paths]
    yield flatten(from_torch(state, rules, target, ignore=(".*",)))


def _file(
  dest: Path, kind: Kind, found: Found, tensors: Mapping[str, Tensor], about: Mapping[str, str]
) -> list[Path]:
  record = make_record(found.family, found.cfg, found.name)
  if found.family == "dasheng":
    write_official(dest, tensors, found.cfg, record)
  elif kind == "safetensors":
    write_safetensors(dest, tensors, as_note(record))
  else:
    write_torch(dest, tensors)
  beside(dest).write_text(json.dumps(config_json(found, about, {}), indent=2) + "\n")
  card_of(dest).write_text(model_card(found, dest.name, about, kind))
  return [dest, beside(dest), card_of(dest)]


def card_of(file: Path) -> Path:
  """The model card of a file."""
  return file.with_name(f"{file.name}.md")


def official_tensors(found: Found, dtype: Dtype) -> dict[str, Tensor]:
  """Every tensor of the official layout in its order, constants included, in the wanted type."""
  names = official_order(found)
  constants = {name: held(array) for name, array in found.constants.items()}
  if found.family == "dasheng":
    # The released order: position tables, then the front end, then the rest.
    names = [*names[:2], *constants, *names[2:]]
  else:
    names = [*names, *constants]
  source = {**found.tensors, **constants}
  return {name: _cast(name, source[name], dtype) for name in names}


def official_order(found: Found) -> list[str]:
  """Names of the tensors that the table moves, in its order."""
  shapes = flatten(found.target)
  names = []
  for rule in found.rules:
    layers = range(shapes[rule.ours].shape[0]) if LAYER in rule.torch else (0,)
    names += [rule.torch.replace(LAYER, str(n)) for n in layers]
  return names


def hub_names(found: Found, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
  """Tensors under the names of the Hugging Face variant: prefixed, without the front end."""
  if found.family != "dasheng":
    return dict(tensors)
  heads = ("outputlayer.", "decoder.")
  front_end = set(FRONT_END.values())
  return {
    name if name.startswith(heads) else f"encoder.{name}": tensor
    for name, tensor in tensors.items()
    if name not in front_end
  }


def _cast(name: str, tensor: Tensor, dtype: Dtype) -> Tensor:
  """The tensor in another floating-point type; counters stay integers."""
  floating = ("float64", "float32", "float16", "bfloat16")
  if tensor.dtype not in floating or tensor.dtype == dtype:
    return tensor
  return Tensor(tensor.shape, dtype, functools.partial(_cast_values, name, tensor, dtype))


def _cast_values(name: str, tensor: Tensor, dtype: Dtype) -> np.ndarray:
  values = np.asarray(tensor.read())
  if dtype == "float16" and values.size and np.abs(values.astype(np.float64)).max() > _HALF_MAX:
    raise WeightsError(
      f"{name} holds values beyond {_HALF_MAX:g}, which float16 cannot hold; use bfloat16"
    )
  if dtype == "bfloat16":
    import ml_dtypes

    return values.astype(ml_dtypes.bfloat16)
  return values.astype(dtype)


@contextlib.contextmanager
def _whole_folder(dest: Path) -> Iterator[Path]:
  """A folder beside `dest` that takes its place when the block ends without an error."""
  made = dest.with_name(f"{dest.name}.partial-{os.getpid()}")
  old = dest.with_name(f"{dest.name}.old-{os.getpid()}")
  made.mkdir()
  try:
    yield made
    if dest.exists():
      os.replace(dest, old)
    os.replace(made, dest)
    shutil.rmtree(old, ignore_errors=True)
  finally:
    shutil.rmtree(made, ignore_errors=True)
