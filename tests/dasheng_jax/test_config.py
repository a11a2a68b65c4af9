"""Sizes by name, parameter counts without a single parameter, and mistakes answered in one line."""

import dataclasses
import functools
import math
import re

import jax
import pytest

from dasheng_jax.config import (
  DEC_25M,
  DEC_56M,
  SIZES,
  ComputeConfig,
  DashengConfig,
  DecoderConfig,
  EncoderConfig,
  named,
)
from dasheng_jax.errors import ConfigError
from dasheng_jax.mae import init_variables
from dasheng_jax.models import MODELS, published
from dasheng_jax.sharding import PARAM_AXES
from dasheng_jax.weights.table import flatten
from pipelines.mel import MelConfig
from tests.dasheng_jax.fixtures import GOLDEN

# (encoder, decoder): reference text, section 7.
COUNTS = {
  "dasheng_base": (85_447_808, 25_875_200),
  "dasheng_0_6b": (630_333_568, 26_137_344),
  "dasheng_1_2b": (1_134_047_360, 58_276_864),
  "dasheng_0_6b_paper": (403_603_584, None),
  "dasheng_0_6b_trainer": (680_743_040, 26_268_416),
}


@functools.cache
def shapes(name: str, scan: bool = True) -> dict:
  cfg = named(name).with_compute(scan=scan)
  return jax.eval_shape(functools.partial(init_variables, cfg), jax.random.key(0))


def count(tree) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts(name):
  """Nothing is allocated: the 1.2B model is counted like the smallest one."""
  cfg, params = named(name), shapes(name)["params"]
  width, depth = cfg.encoder.width, cfg.encoder.depth
  narrow, shallow = cfg.decoder.width, cfg.decoder.depth
  formulas = (
    depth * (12 * width**2 + 13 * width) + 512 * width + 128,
    shallow * (12 * narrow**2 + 13 * narrow) + narrow * (width + 257) + 256 * narrow + 256,
  )
  counted = (count(params["encoder"]), count(params["decoder"]))
  assert counted == formulas
  for ours, stated in zip(counted, COUNTS.get(name, (None, None)), strict=True):
    assert stated in (None, ours)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}


def test_base_in_pretraining_and_the_unscanned_twin():
  assert count(shapes("dasheng_base")["params"]) == 111_323_008
  assert count(shapes("dasheng_micro", scan=False)) == count(shapes("dasheng_micro"))


def axes_of(path: str, rank: int) -> tuple:
  """Logical axes from the table, a leading None for the stacked layers."""
  matches = [axes for pattern, axes in PARAM_AXES if re.search(pattern, path)]
  assert matches, f"no rule for {path}"
  axes = matches[0]
  assert not axes or len(axes) == rank - ("/layers/" in path), path
  return (None,) * (rank - len(axes)) + tuple(axes)


def table_1_2b() -> str:
  lines = []
  for path, leaf in sorted(flatten(shapes("dasheng_1_2b")).items()):
    axes = ", ".join(axis or "-" for axis in axes_of(path, len(leaf.shape)))
    lines.append(f"{path}  {'x'.join(map(str, leaf.shape))}  ({axes})")
  return "\n".join(lines) + "\n"


def test_layout_of_the_largest_model():
  """A reviewed file: path, shape, logical axes. A difference here is a change of layout."""
  assert table_1_2b() == (GOLDEN / "dasheng_1_2b_axes.txt").read_text()


def test_every_rule_of_the_table_is_used():
  paths = list(flatten(shapes("dasheng_micro"))) + list(
    flatten(shapes("dasheng_micro", scan=False))
  )
  for path in paths:
    assert any(re.search(pattern, path) for pattern, _ in PARAM_AXES), path
  for pattern, _ in PARAM_AXES:
    assert any(re.search(pattern, path) for path in paths), pattern


def test_published_decoders():
  assert (DEC_25M.width, DEC_25M.depth, DEC_25M.heads) == (512, 8, 16)
  assert (DEC_56M.width, DEC_56M.depth, DEC_56M.heads) == (768, 8, 24)


def test_model_table():
  assert list(MODELS) == ["dasheng_base", "dasheng_0_6b", "dasheng_1_2b"]
  for name, model in MODELS.items():
    assert model.config == named(name)
    assert model.licence == "Apache-2.0"
    assert model.url.startswith("https://")
  assert published("dasheng_base").file == "dasheng_base.pt"


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: named("dasheng_bass"), "no model is named 'dasheng_bass'; did you mean dasheng_base"),
    (lambda: named("?"), "no model is named '.'; choose from dasheng_base, "),
    (lambda: MODELS["dasheng_bse"], "no published model.*did you mean dasheng_base"),
    (lambda: published("dasheng-base"), "no published model.*did you mean dasheng_base"),
    (lambda: EncoderConfig(width=96, heads=5), r"width 96 is not divisible by 5 heads; try heads"),
    (lambda: DecoderConfig(width=10, heads=4), "model.decoder.width 10 is not divisible"),
    (lambda: DashengConfig(target_norm="pach"), "model.target_norm is 'pach'; choose from patch"),
    (lambda: ComputeConfig(dtype="bf16"), "model.compute.dtype is 'bf16'; choose from float32"),
    (
      lambda: DashengConfig(EncoderConfig(width=65, heads=5), position_init="sincos"),
      "needs even widths; 65 is odd",
    ),
    (lambda: DecoderConfig(heads=0), "model.decoder.heads is 0"),
    (lambda: EncoderConfig(width=-1), "model.encoder.width is -1"),
    (lambda: EncoderConfig(depth=0), "model.encoder.depth is 0"),
    (lambda: EncoderConfig(positions=0), "model.encoder.positions is 0"),
    (lambda: DashengConfig(mask_ratio=1.0), "model.mask_ratio is 1.0; it must lie between"),
    (lambda: DashengConfig(mask_group=0), "model.mask_group is 0; use 1 for ungrouped"),
    (lambda: DashengConfig(patch_frames=0), "model.patch_frames is 0"),
    (
      lambda: DashengConfig(mel=MelConfig(mel_bins=128)),
      "model.mel.mel_bins 128: 1 of them lie .* FFT of 512 points .*; use 114 or fewer, or a",
    ),
    (
      lambda: DashengConfig(mel=MelConfig(mel_bins=2, low_hz=40.0, high_hz=50.0)),
      "mel_bins 2: 2 of them .*; use a larger model.mel.n_fft",
    ),
  ],
)
def test_mistakes_are_answered_in_one_line(unchecked, make, message):
  with pytest.raises(ConfigError, match=message) as caught:
    make()
  assert "\n" not in str(caught.value)


def test_configurations_are_values():
  cfg = named("dasheng_mini")
  assert cfg.with_compute(dtype="bfloat16") != cfg
  assert hash(cfg) == hash(dataclasses.replace(cfg))
