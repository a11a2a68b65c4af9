"""Opening what is to be converted: a file, a folder, or a training run; what it is, and its values.

.pt .ckpt .safetensors --open--> content --each family's identify--> Found
FOLDER/config.json + model*.safetensors -----------------^
FOLDER/config.json + state (ours), RUN ------> Found whose tensors are made from our arrays
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dasheng_jax.config import DashengConfig
from dasheng_jax.errors import WeightsError
from dasheng_jax.models import MODELS as DASHENG
from dasheng_jax.weights import folder as folders
from dasheng_jax.weights.files import first_names
from dasheng_jax.weights.found import Found
from dasheng_jax.weights.hub import resolve
from dasheng_jax.weights.identify import (
  classifier_shapes,
  decoder_shapes,
  described,
  described_beside,
  name_of,
)
from dasheng_jax.weights.identify import identify as identify_dasheng
from dasheng_jax.weights.load import EXPORTED, encoder_shapes
from dasheng_jax.weights.names import (
  classifier_rules,
  decoder_rules,
  encoder_rules,
  front_end_buffers,
)
from dasheng_jax.weights.record import OURS, config_in, content_of
from dasheng_jax.weights.run import newest_step, read_checkpoint
from dasheng_jax.weights.safetensors_file import open_safetensors
from dasheng_jax.weights.table import flatten, to_torch_tensors, unflatten
from dasheng_jax.weights.tensors import held
from dasheng_jax.weights.torch_archive import kind_of
from dasheng_jax.weights.torch_file import open_torch
from mobile_jax.config import DyMNConfig
from mobile_jax.families import FAMILIES
from mobile_jax.models import MODELS as MOBILE
from mobile_jax.weights.identify import described as described_mobile
from mobile_jax.weights.identify import identify as identify_mobile
from mobile_jax.weights.identify import known_name
from mobile_jax.weights.load import network_of
from mobile_jax.weights.names import buffers as mobile_constants
from mobile_jax.weights.names import rules as mobile_rules

# A configuration of every family; their fields stand in our records.
CONFIGS: Mapping[str, Any] = {"dasheng": DashengConfig(), **FAMILIES}


@dataclasses.dataclass(frozen=True)
class Wishes:
  """What no tensor reveals, where the user knows better than the file."""

  name: str | None = None
  heads: int | None = None
  decoder_heads: int = 0
  temperature: float | None = None


def resolved(source: str | Path) -> Path:
  """The file or folder that a path or a name stands for; WeightsError where there is none."""
  path = Path(source)
  return path if path.exists() else resolve(source, {**MOBILE, **DASHENG})


def read_part(path: Path) -> Path:
  """The file or folder of weights that is read of a source: of a run, its export or checkpoint.

  WeightsError for a folder that holds no weights.
  """
  if not path.is_dir():
    return path
  for name in EXPORTED:
    if (path / name).is_file():
      return path / name
  step = None if folders.is_weights_folder(path) else newest_step(path)
  if step is None and not folders.is_weights_folder(path):
    pickled = sorted(path.glob("*.bin"))
    hint = f"; pass {pickled[0]}" if pickled else ""
    raise WeightsError(
      f"{path}: neither a training run nor a folder of weights "
      f"(no {folders.CONFIG}, no model.safetensors, no checkpoints){hint}"
    )
  return step or path


def open_source(path: Path, wishes: Wishes) -> Found:
  """What a source holds; nothing but headers is read yet, except of runs and our own folders.

  Raises WeightsError where it is absent, damaged, of no family we know, or would run code, and
  where a wish is of another kind of model.
  """
  path = read_part(resolved(path))
  if not path.is_dir():
    found = _file(path, wishes)
  elif folders.is_weights_folder(path):
    content = folders.open_content(path)
    if (path / folders.STATE).is_dir():
      found = _from_state(path, content[OURS], wishes)
    else:
      found = _identified(path, content, wishes)
    found = found._replace(earlier=_earlier(content.get(OURS)))
  else:
    cfg, tree = read_checkpoint(path)
    _check_stored(path, cfg, wishes)
    layout = f"checkpoint of a training run, step {path.name}"
    found = _from_arrays("dasheng", cfg, flatten(tree), layout)
  _check_wishes(path, found, wishes)
  return found


def _file(path: Path, wishes: Wishes) -> Found:
  if not path.is_file():
    raise WeightsError(f"{path}: neither a file nor a folder")
  if path.suffix == ".safetensors":
    tensors, notes = open_safetensors(path)
    return _identified(path, content_of(tensors, notes), wishes)
  found = _identified(path, open_torch(path), wishes)
  if kind_of(path) == "zip":
    return found
  old = "PyTorch's old format, which has no checksums: damage may go unseen"
  return found._replace(said=(*found.said, old))


def _identified(path: Path, content: Mapping, wishes: Wishes) -> Found:
  found = identify_dasheng(path, content, heads=wishes.heads, decoder_heads=wishes.decoder_heads)
  if found is None:
    found = identify_mobile(path, content, name=wishes.name, temperature=wishes.temperature)
  if found is None:
    raise WeightsError(
      f"{path}: neither Dasheng nor MN nor DyMN (it holds {first_names(content)}); "
      "see docs/weights.md for what is"
    )
  return found


def _earlier(record: Any) -> dict[str, str]:
  """What a record says of its own source: text alone."""
  told = record.get("source") if isinstance(record, Mapping) else None
  if not isinstance(told, Mapping):
    return {}
  return {str(key): value for key, value in told.items() if isinstance(value, str)}


def _from_state(path: Path, ours: Mapping, wishes: Wishes) -> Found:
  where = path / folders.CONFIG
  cfg = config_in(ours, CONFIGS, where)
  _check_stored(path, cfg, wishes)
  if isinstance(cfg, DyMNConfig) and wishes.temperature:
    cfg = dataclasses.replace(cfg, temperature=wishes.temperature)
  family, record = str(ours["family"]), folders.arrays_of(path, ours)
  target = _target(family, cfg, record, str(path))
  if extra := [name for name in record if name not in flatten(target)]:
    raise WeightsError(f"{where}: lists {extra[0]}, which is no part of this model; damaged")
  found = _from_arrays(family, cfg, folders.read_state(path, target, record), "our own folder")
  return found if family == "dasheng" else found._replace(name=known_name(ours.get("name")))


def _check_stored(path: Path, cfg: Any, wishes: Wishes) -> None:
  """WeightsError where the user asks for another model than the one that was stored."""
  if wishes.name:
    raise WeightsError(f"{path}: its {folders.CONFIG} says what it is; leave --name out")
  for flag, asked, part in (
    ("heads", wishes.heads, "encoder"),
    ("decoder_heads", wishes.decoder_heads, "decoder"),
  ):
    stored = getattr(getattr(cfg, part, None), "heads", None)
    if asked and asked != stored:
      has = f"this model has {stored}" if stored else "this model has none"
      raise WeightsError(f"{path}: {has}; leave --{flag} {asked} out")


def _check_wishes(path: Path, found: Found, wishes: Wishes) -> None:
  """WeightsError for a wish that this kind of model cannot have, and so would be ignored."""
  dasheng = found.family == "dasheng"
  decoder = any(rule.ours.startswith("params/decoder/") for rule in found.rules)
  for flag, asked, whose in (
    ("name", dasheng and wishes.name, "MN and DyMN"),
    ("temperature", found.family != "dymn" and wishes.temperature, "DyMN's dynamic convolutions"),
    ("heads", not dasheng and wishes.heads, "Dasheng's encoder"),
    ("decoder_heads", not decoder and wishes.decoder_heads, "a decoder of Dasheng"),
  ):
    if asked:
      this = f"this is {found.family}" + (" without one" if flag == "decoder_heads" else "")
      raise WeightsError(f"{path}: --{flag} is of {whose}, and {this}; leave it out")


def _target(family: str, cfg: Any, record: Mapping[str, folders.ArrayRecord], source: str) -> dict:
  """Our tree of shapes for the parts that a record lists."""
  if family != "dasheng":
    return dict(network_of(cfg, source)[1])
  leaves = dict(flatten(encoder_shapes(cfg)))
  if _DECODER in record:
    leaves |= decoder_shapes(cfg)
  if _CLASSIFIER in record:
    leaves |= classifier_shapes(math.prod(record[_CLASSIFIER].shape), cfg)
  return unflatten(leaves)


# Arrays of ours that tell whether a decoder and a classifier stand beside the encoder.
_DECODER, _CLASSIFIER = "params/decoder/mask_token", "params/classifier/logits/bias"


def _from_arrays(family: str, cfg: Any, leaves: Mapping[str, np.ndarray], layout: str) -> Found:
  name, said = "", [f"layout: {layout}"]
  if family == "dasheng":
    rules, constants, name = encoder_rules(cfg), front_end_buffers(cfg), name_of(cfg)
    rules += decoder_rules(cfg) if _DECODER in leaves else ()
    rules += classifier_rules() if _CLASSIFIER in leaves else ()
    classes = leaves[_CLASSIFIER].size if _CLASSIFIER in leaves else 0
    said += described(cfg, "as stored with the weights")
    said += described_beside(cfg, decoder=_DECODER in leaves, classes=classes)
  else:
    rules, constants = mobile_rules(cfg), mobile_constants(cfg)
    said += [f"width {cfg.width:g}, as stored with the weights", *described_mobile(cfg)]
  tensors = to_torch_tensors({path: held(np.asarray(x)) for path, x in leaves.items()}, rules)
  shapes = {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in leaves.items()}
  return Found(
    family, layout, name, cfg, tensors, rules, unflatten(shapes), (), constants, tuple(said)
  )
