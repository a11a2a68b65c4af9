"""Which MobileNetV2 or EfficientNet a state dict is of, by the shapes of its tensors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping

from dasheng_jax.errors import ConfigError, WeightsError
from dasheng_jax.weights.tensors import Tensor, told_shape
from mobile_jax.decision_config import DECISION_SIZES, EfficientNetConfig, MobileNetV2Config
from mobile_jax.families import Decision
from mobile_jax.weights.decision_names import (
  FILTERS,
  efficientnet_rules,
  mobilenet_v2_rules,
)

# Settings that leave no trace in any tensor.
UNSEEN = {
  "mobilenet_v2": ("the front end", "dropout"),
  "efficientnet": ("the padding's image size", "the front end", "dropout"),
}
# A name that no other network has -> its family and lineage.
_FIRST = {
  "features.1.conv.0.0.weight": ("mobilenet_v2", "psl"),
  "_conv_stem.weight": ("efficientnet", "efficientnet_pytorch"),
  "features.1.0.block.0.0.weight": ("efficientnet", "torchvision"),
}
_STEMS = {
  "psl": "features.0.0.weight",
  "efficientnet_pytorch": "_conv_stem.weight",
  "torchvision": "features.0.0.weight",
}
# The published width first, then steps: what counts are the channels that come out. At less than
# 0.07 the released rule leaves a layer without any.
_WIDTHS = (1.0, *(n / 100 for n in range(10, 401, 5)), *(n / 100 for n in range(7, 401)))


def decision_family(tensors: Mapping[str, Tensor]) -> str:
  """The family, a key of `UNSEEN`; empty for a state dict of none of them."""
  return next((family for name, (family, _) in _FIRST.items() if name in tensors), "")


def decision_by_tensors(tensors: Mapping[str, Tensor], source: str) -> tuple[str, Decision]:
  """(name of the size or "", configuration) of such a state dict.

  Raises WeightsError where the channels are those of no such network.
  """
  family, lineage = next(told for name, told in _FIRST.items() if name in tensors)
  candidates = _mobilenets(tensors) if family == "mobilenet_v2" else _efficientnets(lineage)

  @functools.cache
  def outputs(name: str) -> int:
    return told_shape(tensors, name, 4, source)[0] if name in tensors else 0

  stem = outputs(_STEMS[lineage])
  for cfg in candidates:
    if cfg.stem != stem:
      continue
    *body, last = _telling(cfg)
    if any(outputs(name) != size for name, size in body):
      continue
    fits = cfg if cfg.features == outputs(last[0]) else _with_last(cfg, outputs(last[0]))
    if fits is not None:
      sizes = (name for name, size in DECISION_SIZES.items() if size == fits)
      return next(sizes, ""), fits
  raise WeightsError(
    f"{source}: its channels are those of no {family} of known width; "
    "pass config= with the one it was made from"
  )


def _mobilenets(tensors: Mapping[str, Tensor]) -> Iterator[Decision]:
  # Only the released file carries its front end. At many widths both rules round alike.
  lineages = ("psl", "torchvision") if FILTERS in tensors else ("torchvision", "psl")
  for lineage in lineages:
    for width in _WIDTHS:
      yield MobileNetV2Config(width=width, lineage=lineage)  # type: ignore[arg-type]


def _efficientnets(lineage: str) -> Iterator[Decision]:
  for width in _WIDTHS:
    yield EfficientNetConfig(width=width, lineage=lineage)  # type: ignore[arg-type]


def _telling(cfg: Decision) -> list[tuple[str, int]]:
  """(name, outputs) of the kernels whose sizes the width decides, from the first to the last."""
  sizes = {"stem": cfg.stem}
  for block in cfg.blocks:
    ours = f"block_{block.number}"
    sizes |= {f"{ours}/depthwise": block.expanded, f"{ours}/project": block.out}
  sizes["last"] = cfg.features
  if isinstance(cfg, MobileNetV2Config):
    table = mobilenet_v2_rules(cfg)
  else:
    table = efficientnet_rules(cfg)
  names = {rule.ours: rule.torch for rule in table}
  return [(names[f"params/{ours}/kernel"], size) for ours, size in sizes.items()]


def _with_last(cfg: Decision, features: int) -> Decision | None:
  """The configuration with so many channels of the last convolution, where it can have them."""
  for last in (features, round(features / max(1.0, cfg.width))):
    try:
      tried = dataclasses.replace(cfg, last=last)
    except ConfigError:
      continue
    if tried.features == features:
      return tried
  return None
