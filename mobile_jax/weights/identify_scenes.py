"""Which CP-Mobile, CP-ResNet or PaSST a state dict is of, by the shapes of its tensors."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping

from dasheng_jax.errors import ConfigError, WeightsError
from dasheng_jax.weights.tensors import Tensor, told_shape
from mobile_jax.families import Scene
from mobile_jax.passt_config import PASST_SIZES, PaSSTConfig
from mobile_jax.scene_config import SCENE_SIZES, CPMobileConfig, CPResNetConfig

# Settings that leave no trace in any tensor.
UNSEEN = {
  "cp_mobile": ("strides", "the front end"),
  "cp_resnet": ("positions of the pools", "the front end"),
  "passt": ("heads", "stride", "patchout", "the front end"),
}
_FIRST = {
  "cp_mobile": "stages.s1.b1.block.0.0.weight",
  "cp_resnet": "stage1.block1.conv1.weight",
  "passt": "time_new_pos_embed",
}
# Steps of the two factors that are tried: what counts are the channels that come out.
_MULTIPLIERS = (2.3, *(n / 20 for n in range(10, 81)))
_EXPANSIONS = (3.0, *(n / 4 for n in range(4, 33)))


def scene_family(tensors: Mapping[str, Tensor]) -> str:
  """The family, a key of `UNSEEN`; empty for a state dict of none of them."""
  return next((family for family, name in _FIRST.items() if name in tensors), "")


def scene_by_tensors(tensors: Mapping[str, Tensor], source: str) -> tuple[str, Scene]:
  """(name of the size or "", configuration) of a scene model's state dict.

  Raises WeightsError where the channels are those of no such network.
  """
  family = scene_family(tensors)
  told = {"cp_mobile": _mobile, "cp_resnet": _resnet, "passt": _passt}[family]
  try:
    cfg = told(tensors, source)
  except (KeyError, ConfigError):
    cfg = None
  if cfg is None:
    raise WeightsError(
      f"{source}: its channels are those of no {family.replace('_', '-')} of known form; "
      "pass config= with the one it was made from"
    )
  sizes = {**SCENE_SIZES, **PASST_SIZES}
  return next((name for name, size in sizes.items() if size == cfg), ""), cfg


def _mobile(tensors: Mapping[str, Tensor], source: str) -> CPMobileConfig | None:
  def rows(name: str) -> int:
    return told_shape(tensors, name, 4, source)[0]

  form = re.compile(r"stages\.s([123])\.b(\d{1,3})\.block\.0\.0\.weight")
  found = sorted((int(m[2]), int(m[1])) for name in tensors if (m := form.fullmatch(name)))
  stages = [stage for _, stage in found]
  counts = (stages.count(1), stages.count(2), stages.count(3))
  widths = [
    (rows(f"stages.s{s}.b{b}.block.0.0.weight"), rows(f"stages.s{s}.b{b}.block.2.0.weight"))
    for b, s in found
  ]
  base = rows("in_c.1.0.weight")
  usual = CPMobileConfig()
  # Of blocks that are there: strides leave no trace.
  halved, frequency = (
    tuple(n for n in numbers if n <= len(found))
    for numbers in (usual.halved, usual.halved_frequency)
  )
  for multiplier, expansion in itertools.product(_MULTIPLIERS, _EXPANSIONS):
    cfg = dataclasses.replace(
      usual,
      base_channels=base,
      multiplier=multiplier,
      expansion=expansion,
      blocks_per_stage=counts,
      halved=halved,
      halved_frequency=frequency,
    )
    if cfg.base == base and [(block.expanded, block.out) for block in cfg.blocks] == widths:
      return cfg
  return None


def _resnet(tensors: Mapping[str, Tensor], source: str) -> CPResNetConfig | None:
  def shape(stage: int, block: int, conv: int) -> tuple[int, ...]:
    return told_shape(tensors, f"stage{stage}.block{block}.conv{conv}.weight", 4, source)

  def blocks(stage: int) -> Iterator[int]:
    return itertools.takewhile(
      lambda n: f"stage{stage}.block{n}.conv1.weight" in tensors, itertools.count(1)
    )

  counts = tuple(len(list(blocks(stage))) for stage in (1, 2, 3))
  widths = [shape(stage, 1, 1)[0] for stage in (1, 2, 3)]
  groups = tuple(
    into // shape(stage, 1, 1)[1]
    for stage, into in zip((1, 2, 3), (widths[0], *widths[:2]), strict=True)
  )
  sizes = [
    (shape(stage, n, 1)[2], shape(stage, n, 2)[2]) for stage in (1, 2, 3) for n in blocks(stage)
  ]
  # The published value first: the deepest kernels tell nothing of a network without them.
  for rho in (8, *range(1, 13)):
    cfg = CPResNetConfig(
      base_channels=widths[0],
      rho=rho,
      blocks_per_stage=counts,  # type: ignore[arg-type]
      groups=groups,  # type: ignore[arg-type]
      cut_second=2 * widths[0] - widths[1],
      cut_third=4 * widths[0] - widths[2],
    )
    if [block.kernels for block in cfg.blocks] == sizes:
      return cfg
  return None


# Of the published widths: 64 numbers for each head.
_HEAD_WIDTH = 64


def _passt(tensors: Mapping[str, Tensor], source: str) -> PaSSTConfig | None:
  width, _, patch, _ = told_shape(tensors, "patch_embed.proj.weight", 4, source)
  rows = told_shape(tensors, "freq_new_pos_embed", 4, source)[2]
  columns = told_shape(tensors, "time_new_pos_embed", 4, source)[3]
  classes = told_shape(tensors, "head.1.bias", 1, source)[0]
  depth = sum(f"blocks.{n}.norm1.weight" in tensors for n in range(len(tensors)))
  wide = told_shape(tensors, "blocks.0.mlp.fc1.weight", 2, source)[0]
  plain = PASST_SIZES["passt_as" if classes == PASST_SIZES["passt_as"].classes else "passt_scenes"]
  if width % _HEAD_WIDTH or rows != plain.rows:
    return None
  return dataclasses.replace(
    plain,
    classes=classes,
    width=width,
    depth=depth,
    heads=width // _HEAD_WIDTH,
    mlp_ratio=wide / width,
    patch=patch,
    columns=columns,
  )
