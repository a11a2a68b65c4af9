"""What a Dasheng source is: layout, size, heads, and what it carries beside the encoder."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dasheng_jax.config import SIZES, DashengConfig, DecoderConfig
from dasheng_jax.errors import WeightsError
from dasheng_jax.mae import init_variables
from dasheng_jax.models import MODELS
from dasheng_jax.weights.files import EncoderFile, check_front_end, config_of, encoder_file
from dasheng_jax.weights.found import Found
from dasheng_jax.weights.load import encoder_shapes, literal
from dasheng_jax.weights.names import (
  FRONT_END,
  classifier_rules,
  decoder_rules,
  encoder_rules,
  front_end_buffers,
)
from dasheng_jax.weights.table import flatten, unflatten
from dasheng_jax.weights.tensors import Tensor, held

COUNTER = "init_bn.1.num_batches_tracked"


def identify(
  path: Path, content: Mapping[str, Any], *, heads: int | None = None, decoder_heads: int = 0
) -> Found | None:
  """The description of an opened weight file, or None where it is no Dasheng.

  content: {"model": tensors, "config": ...} or tensors alone. decoder_heads: of a decoder that is
  none of the published sizes. Raises WeightsError for a Dasheng whose facts do not fit together.
  """
  file = encoder_file(path, content)
  if file is None:
    return None
  source = str(path)
  stored = file.stored
  cfg = config_of(file, heads, source)
  check_front_end(file, cfg, source)
  said = [f"layout: {file.layout}", _size(cfg), _heads(file, cfg, heads)]
  tensors = dict(file.tensors)
  # Old converters leave the counter out; outputs do not use it.
  if COUNTER not in tensors:
    tensors[COUNTER] = held(np.zeros((), np.int64))
    said.append(f"{COUNTER} is absent, as in files of old converters: written as 0")
  rules, target = encoder_rules(cfg), dict(flatten(encoder_shapes(cfg)))
  if "decoder.mask_token" in tensors:
    cfg, more = _decoder(tensors, cfg, decoder_heads, stored, source)
    rules, target = rules + decoder_rules(cfg), target | more
    shape = cfg.decoder
    said.append(f"decoder: width {shape.width}, depth {shape.depth}, {shape.heads} heads")
  if "outputlayer.1.weight" in tensors:
    classes = tensors["outputlayer.1.weight"].shape[0]
    rules, target = rules + classifier_rules(), target | classifier_shapes(classes, cfg)
    said.append(f"classifier: {classes} classes")
  elif any(name.startswith("outputlayer.") for name in tensors):
    said.append("an incomplete classifier is left out")
  else:
    said.append("no classifier")
  ignore = [literal(name) for name in FRONT_END.values()]
  if "outputlayer.1.weight" not in tensors:
    ignore.append(r"outputlayer\..*")
  if "decoder.mask_token" not in tensors:
    ignore.append(r"decoder\..*")
  return Found(
    "dasheng",
    file.layout,
    _name(cfg),
    cfg,
    tensors,
    rules,
    unflatten(target),
    tuple(ignore),
    front_end_buffers(cfg),
    tuple(said),
  )


def _size(cfg: DashengConfig) -> str:
  shape = cfg.encoder
  known = _name(cfg)
  fits = f", the size of {known}" if known else ", no published size"
  return (
    f"encoder: width {shape.width}, depth {shape.depth}, {shape.positions} positions{fits}; "
    f"clamp at {cfg.mel.top_db:g} dB below the maximum of the {cfg.mel.clamp}"
  )


def _heads(file: EncoderFile, cfg: DashengConfig, asked: int | None) -> str:
  if asked:
    origin = "as asked"
  elif file.stored or file.config.get("num_heads"):
    origin = "by the file's configuration"
  else:
    origin = "by the table of published sizes, since no tensor tells"
  return f"heads: {cfg.encoder.heads}, {origin}"


def _name(cfg: DashengConfig) -> str:
  sizes = {name: (m.config.encoder.width, m.config.encoder.depth) for name, m in MODELS.items()}
  here = (cfg.encoder.width, cfg.encoder.depth)
  return next((name for name, size in sizes.items() if size == here), "")


def _decoder(
  tensors: Mapping[str, Tensor],
  cfg: DashengConfig,
  heads: int,
  stored: DashengConfig | None,
  source: str,
) -> tuple[DashengConfig, dict]:
  width = tensors["decoder.mask_token"].shape[-1]
  numbers = [re.match(r"decoder\.blocks\.(\d+)\.", name) for name in tensors]
  depth = 1 + max((int(match[1]) for match in numbers if match), default=-1)
  known = {(c.decoder.width, c.decoder.depth): c.decoder.heads for c in SIZES.values()}
  if stored and (stored.decoder.width, stored.decoder.depth) == (width, depth):
    known[width, depth] = stored.decoder.heads
  heads = heads or known.get((width, depth), 0)
  if not heads:
    raise WeightsError(
      f"{source}: the decoder's number of heads is in no tensor, and width {width} with depth "
      f"{depth} is no published size: pass --decoder_heads"
    )
  hidden = tensors.get("decoder.blocks.0.mlp.fc1.weight")
  ratio = 4.0 if hidden is None else hidden.shape[0] / width
  try:
    cfg = dataclasses.replace(cfg, decoder=DecoderConfig(width, depth, heads, ratio))
  except ValueError as error:
    raise WeightsError(f"{source}: decoder: {error}") from None
  scanned = cfg.with_compute(scan=True)
  shapes = jax.eval_shape(functools.partial(init_variables, scanned), jax.random.key(0))
  return cfg, dict(flatten({"params": {"decoder": shapes["params"]["decoder"]}}))


def classifier_shapes(classes: int, cfg: DashengConfig) -> dict:
  """Shapes of the AudioSet head, by path."""
  width = cfg.encoder.width
  shapes = {
    "norm/scale": (width,),
    "norm/bias": (width,),
    "logits/kernel": (width, classes),
    "logits/bias": (classes,),
  }
  return {
    f"params/classifier/{path}": jax.ShapeDtypeStruct(shape, np.float32)
    for path, shape in shapes.items()
  }
