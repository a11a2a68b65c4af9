"""What a Dasheng source is: layout, size, heads, and what it carries beside the encoder."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dasheng_jax.config import SIZES, DashengConfig, DecoderConfig
from dasheng_jax.errors import WeightsError
from dasheng_jax.mae import init_variables
from dasheng_jax.models import MODELS
from dasheng_jax.weights.config_json import told_by
from dasheng_jax.weights.files import (
  COUNTER,
  EncoderFile,
  check_front_end,
  config_of,
  encoder_file,
  mlp_ratio,
  published_size,
  with_counter,
)
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
from dasheng_jax.weights.tensors import Tensor, depth_of, told_shape

_HEAD, _TOKEN = "outputlayer.1.weight", "decoder.mask_token"


def identify(
  path: Path, content: Mapping[str, Any], *, heads: int | None = None, decoder_heads: int = 0
) -> Found | None:
  """The description of an opened weight file, or None where it is no Dasheng.

  content: {"model": tensors, "config": ...} or tensors alone. heads, decoder_heads: of stacks that
  are none of the published sizes, as the command line names them. Raises WeightsError for a Dasheng
  whose facts do not fit together.
  """
  file = encoder_file(path, content)
  if file is None:
    return None
  source = str(path)
  cfg = config_of(file, heads, source, "--heads N")
  check_front_end(file, cfg, source)
  tensors = with_counter(file.tensors)
  rules, target = encoder_rules(cfg), dict(flatten(encoder_shapes(cfg)))
  if _TOKEN in tensors:
    cfg = _with_decoder(tensors, cfg, decoder_heads, file.stored, source)
    rules, target = rules + decoder_rules(cfg), target | decoder_shapes(cfg)
  classes = told_shape(tensors, _HEAD, 2, source)[0] if _HEAD in tensors else 0
  if classes:
    rules, target = rules + classifier_rules(), target | classifier_shapes(classes, cfg)
  said = [f"layout: {file.layout}", *described(cfg, _origin(file, cfg, heads))]
  # Old converters leave the counter out.
  if COUNTER not in file.tensors:
    said.append(f"{COUNTER} is absent, as in files of old converters: written as 0")
  said += described_beside(cfg, decoder=_TOKEN in tensors, classes=classes)
  if not classes and any(name.startswith("outputlayer.") for name in tensors):
    said[-1] = "an incomplete classifier is left out"
  ignore = [literal(name) for name in FRONT_END.values()]
  ignore += [] if classes else [r"outputlayer\..*"]
  ignore += [] if _TOKEN in tensors else [r"decoder\..*"]
  return Found(
    "dasheng",
    file.layout,
    name_of(cfg),
    cfg,
    tensors,
    rules,
    unflatten(target),
    tuple(ignore),
    front_end_buffers(cfg),
    tuple(said),
  )


def described(cfg: DashengConfig, heads_by: str) -> list[str]:
  """Size, clamp and heads of an encoder in sentences; heads_by: where the heads are told."""
  shape, known = cfg.encoder, name_of(cfg)
  fits = f", the size of {known}" if known else ", no published size"
  return [
    f"encoder: width {shape.width}, depth {shape.depth}, {shape.positions} positions{fits}; "
    f"clamp at {cfg.mel.top_db:g} dB below the maximum of the {cfg.mel.clamp}",
    f"heads: {shape.heads}, {heads_by}",
  ]


def described_beside(cfg: DashengConfig, *, decoder: bool, classes: int) -> list[str]:
  """What a source carries beside its encoder; classes: 0 for no classifier."""
  shape, said = cfg.decoder, []
  if decoder:
    said.append(f"decoder: width {shape.width}, depth {shape.depth}, {shape.heads} heads")
  return [*said, f"classifier: {classes} classes" if classes else "no classifier"]


def _origin(file: EncoderFile, cfg: DashengConfig, asked: int | None) -> str:
  told = cfg.encoder.heads if file.stored else told_by(file.config, "").heads
  usual = published_size(cfg.encoder.width, cfg.encoder.depth)
  if asked:
    if told not in (None, asked):
      return f"as asked, though the file's configuration says {told}"
    if told is None and usual and usual.encoder.heads != asked:
      return f"as asked, though the published size has {usual.encoder.heads}"
    return "as asked"
  if told:
    return "by the file's configuration"
  return "by the table of published sizes, since no tensor tells"


def name_of(cfg: DashengConfig) -> str:
  """The published model of an encoder's width and depth, or ""."""
  sizes = {name: (m.config.encoder.width, m.config.encoder.depth) for name, m in MODELS.items()}
  here = (cfg.encoder.width, cfg.encoder.depth)
  return next((name for name, size in sizes.items() if size == here), "")


def _with_decoder(
  tensors: Mapping[str, Tensor],
  cfg: DashengConfig,
  heads: int,
  stored: DashengConfig | None,
  source: str,
) -> DashengConfig:
  """The configuration with the decoder that the tensors show."""
  width = told_shape(tensors, _TOKEN, 3, source)[-1]
  depth = depth_of(tensors, "decoder.blocks.", source)
  known = {(c.decoder.width, c.decoder.depth): c.decoder.heads for c in SIZES.values()}
  if stored and (stored.decoder.width, stored.decoder.depth) == (width, depth):
    known[width, depth] = stored.decoder.heads
    if heads not in (0, stored.decoder.heads):
      raise WeightsError(
        f"{source}: its decoder has {stored.decoder.heads} heads; leave --decoder_heads {heads} out"
      )
  heads = heads or known.get((width, depth), 0)
  if not heads:
    raise WeightsError(
      f"{source}: the decoder's number of heads is in no tensor, and width {width} with depth "
      f"{depth} is no published size: pass --decoder_heads"
    )
  ratio = mlp_ratio(tensors, "decoder.", width, source)
  try:
    return dataclasses.replace(cfg, decoder=DecoderConfig(width, depth, heads, ratio))
  except ValueError as error:
    raise WeightsError(f"{source}: decoder: {error}") from None


def decoder_shapes(cfg: DashengConfig) -> dict:
  """Shapes of the decoder's variables, by path."""
  scanned = cfg.with_compute(scan=True)
  shapes = jax.eval_shape(functools.partial(init_variables, scanned), jax.random.key(0))
  return dict(flatten({"params": {"decoder": shapes["params"]["decoder"]}}))


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
