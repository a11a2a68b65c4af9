"""Opening what is to be converted: a file, a folder, or a training run; what it is, and its values.

.pt .ckpt .safetensors --open--> content --each family's identify--> Found
FOLDER/config.json + model*.safetensors -----------------^
FOLDER/config.json + state (ours), RUN ------> Found whose tensors are made from our arrays
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dasheng_jax.config import DashengConfig
from dasheng_jax.errors import WeightsError
from dasheng_jax.models import MODELS as DASHENG
from dasheng_jax.weights import folder as folders
from dasheng_jax.weights.found import Found
from dasheng_jax.weights.hub import resolve
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
from dasheng_jax.weights.torch_file import open_torch
from mobile_jax.config import FAMILIES, DyMNConfig
from mobile_jax.models import MODELS as MOBILE
from mobile_jax.network import shapes as mobile_shapes
from mobile_jax.weights.identify import identify as identify_mobile
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


def open_source(path: Path, wishes: Wishes) -> Found:
  """What a source holds; nothing but headers is read yet, except of runs and our own folders.

  Raises WeightsError where it is absent, damaged, of no family we know, or would run code.
  """
  if not path.exists():
    path = resolve(path, {**MOBILE, **DASHENG})
  if path.is_dir():
    return _folder(path, wishes)
  if path.suffix == ".safetensors":
    tensors, notes = open_safetensors(path)
    return _identified(path, content_of(tensors, notes), wishes)
  return _identified(path, open_torch(path), wishes)


def _identified(path: Path, content: Mapping, wishes: Wishes) -> Found:
  found = identify_dasheng(path, content, heads=wishes.heads, decoder_heads=wishes.decoder_heads)
  if found is None:
    found = identify_mobile(path, content, name=wishes.name, temperature=wishes.temperature)
  if found is None:
    names = [name for name in _inside(content) if isinstance(name, str)]
    shown = ", ".join(names[:3]) or "no tensor at all"
    raise WeightsError(
      f"{path}: neither Dasheng nor MN nor DyMN (it holds {shown}); see docs/weights.md for what is"
    )
  return found


def _inside(content: Mapping) -> Mapping:
  for place in ("state_dict", "model", "model_state_dict"):
    if isinstance(content.get(place), Mapping):
      return content[place]
  return content


def _folder(path: Path, wishes: Wishes) -> Found:
  for name in EXPORTED:
    if (path / name).is_file():
      return open_source(path / name, wishes)
  if folders.is_weights_folder(path):
    content = folders.open_content(path)
    if (path / folders.STATE).is_dir():
      return _from_state(path, content[OURS], wishes)
    return _identified(path, content, wishes)
  step = newest_step(path)
  if step is None:
    raise WeightsError(
      f"{path}: neither a training run nor a folder of weights "
      f"(no {folders.CONFIG}, no model.safetensors, no checkpoints)"
    )
  cfg, tree = read_checkpoint(step)
  return _from_arrays(
    "dasheng", cfg, flatten(tree), f"checkpoint of a training run, step {step.name}", ()
  )


def _from_state(path: Path, ours: Mapping, wishes: Wishes) -> Found:
  cfg = config_in(ours, CONFIGS, path / folders.CONFIG)
  _check_wishes(path, cfg, wishes)
  if isinstance(cfg, DyMNConfig) and wishes.temperature:
    cfg = dataclasses.replace(cfg, temperature=wishes.temperature)
  record = ours.get("arrays")
  if not isinstance(record, Mapping):
    raise WeightsError(f"{path / folders.CONFIG}: lists no arrays; convert the source again")
  target = _target(ours["family"], cfg, record)
  arrays = folders.read_state(path, target, record)
  made = _from_arrays(ours["family"], cfg, arrays, "our own folder", ())
  return made._replace(name=str(ours.get("name", "")))


def _check_wishes(path: Path, cfg: Any, wishes: Wishes) -> None:
  """WeightsError where the user asks for another model than the one that was stored."""
  if wishes.name:
    raise WeightsError(f"{path}: its {folders.CONFIG} says what it is; leave --name out")
  if wishes.temperature and not isinstance(cfg, DyMNConfig):
    raise WeightsError(f"{path}: --temperature is of DyMN's dynamic convolutions; leave it out")
  for flag, asked, part in (
    ("heads", wishes.heads, "encoder"),
    ("decoder_heads", wishes.decoder_heads, "decoder"),
  ):
    stored = getattr(getattr(cfg, part, None), "heads", None)
    if asked and asked != stored:
      has = f"this model has {stored}" if stored else "this model has none"
      raise WeightsError(f"{path}: {has}; leave --{flag} {asked} out")


def _target(family: str, cfg: Any, record: Mapping[str, list]) -> Mapping:
  """Our tree of shapes for the parts that a record lists."""
  if family != "dasheng":
    return mobile_shapes(cfg)
  leaves = dict(flatten(encoder_shapes(cfg)))
  others = ("params/decoder/", "params/classifier/")
  for name, (shape, dtype, *_) in record.items():
    if name.startswith(others):
      leaves[name] = jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
  return unflatten(leaves)


def _from_arrays(
  family: str, cfg: Any, leaves: Mapping[str, np.ndarray], layout: str, said: tuple[str, ...]
) -> Found:
  if family == "dasheng":
    rules, constants = encoder_rules(cfg), front_end_buffers(cfg)
    if "params/decoder/mask_token" in leaves:
      rules += decoder_rules(cfg)
    if "params/classifier/logits/bias" in leaves:
      rules += classifier_rules()
  else:
    rules, constants = mobile_rules(cfg), mobile_constants(cfg)
  tensors = to_torch_tensors({path: held(np.asarray(x)) for path, x in leaves.items()}, rules)
  shapes = {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in leaves.items()}
  said = (f"layout: {layout}", *said)
  return Found(family, layout, "", cfg, tensors, rules, unflatten(shapes), (), constants, said)
