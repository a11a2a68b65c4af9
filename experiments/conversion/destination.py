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
from typing import Literal

import numpy as np

from dasheng_jax.weights import folder as folders
from dasheng_jax.weights.files import write_official
from dasheng_jax.weights.found import Found
from dasheng_jax.weights.names import FRONT_END
from dasheng_jax.weights.record import OURS, as_note, beside, bound_to, make_record
from dasheng_jax.weights.safetensors_file import write_safetensors, write_sharded
from dasheng_jax.weights.table import flatten, from_torch, names_of, unflatten
from dasheng_jax.weights.tensors import FLOATING, Arrays, Tensor, held
from dasheng_jax.weights.torch_file import write_torch
from experiments.conversion.card import config_json, model_card
from experiments.conversion.overwrite import SUFFIXES, Kind, card_of
from experiments.conversion.provenance import Origin

Dtype = Literal["float32", "bfloat16", "float16"]


def write(
  dest: Path, kind: Kind, found: Found, *, dtype: Dtype, shard_bytes: int, origin: Origin
) -> list[Path]:
  """Writes DEST with its model card and config.json; returns the files, for the user to see.

  found: checked, and for this `dtype`. origin: what card and config.json say of the source.
  """
  tensors = official_tensors(found, dtype)
  if kind in SUFFIXES:
    return _file(dest, kind, found, tensors, origin, dtype)
  with _whole_folder(dest) as folder:
    record: dict[str, list] = {}
    if kind == "orbax":
      record = folders.write_state(folder, _parts(found, tensors))
    else:
      write_sharded(folder, hub_names(found, tensors), {}, shard_bytes)
    config = config_json(found, origin.about, record)
    (folder / folders.CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (folder / folders.CARD).write_text(model_card(found, dest.name, origin, kind, dtype))
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
  dest: Path,
  kind: Kind,
  found: Found,
  tensors: Mapping[str, Tensor],
  origin: Origin,
  dtype: Dtype,
) -> list[Path]:
  record = make_record(found.family, found.cfg, found.name)
  if found.family == "dasheng":
    write_official(dest, tensors, found.cfg, record)
  elif kind == "safetensors":
    write_safetensors(dest, tensors, as_note(record))
  else:
    write_torch(dest, tensors)
  config = config_json(found, origin.about, {})
  config[OURS] = bound_to(dest, config[OURS])
  beside(dest).write_text(json.dumps(config, indent=2) + "\n")
  card_of(dest).write_text(model_card(found, dest.name, origin, kind, dtype))
  return [dest, beside(dest), card_of(dest)]


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
  return {name: _cast(source[name], dtype) for name in names}


def official_order(found: Found) -> list[str]:
  """Names of the tensors that the table moves, in its order."""
  shapes = flatten(found.target)
  return [name for rule in found.rules for name in names_of(rule, shapes[rule.ours].shape)]


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


def _cast(tensor: Tensor, dtype: Dtype) -> Tensor:
  """The tensor in the wanted floating-point type; counters are the released code's int64."""
  wanted = dtype if tensor.dtype in FLOATING else "int64"
  if tensor.dtype == wanted:
    return tensor
  return Tensor(tensor.shape, wanted, functools.partial(_cast_values, tensor, wanted))


def _cast_values(tensor: Tensor, dtype: str) -> np.ndarray:
  import ml_dtypes

  kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
  return np.asarray(tensor.read()).astype(kind)


@contextlib.contextmanager
def _whole_folder(dest: Path) -> Iterator[Path]:
  """A folder beside `dest` that takes its place when the block ends without an error."""
  made = dest.with_name(f"{dest.name}.partial-{os.getpid()}")
  old = dest.with_name(f"{dest.name}.old-{os.getpid()}")
  made.mkdir()
  try:
    yield made
    replaced = dest.exists()
    if replaced:
      os.replace(dest, old)
    try:
      os.replace(made, dest)
    except OSError:
      if replaced:
        os.replace(old, dest)
      raise
    shutil.rmtree(old, ignore_errors=True)
  finally:
    shutil.rmtree(made, ignore_errors=True)
