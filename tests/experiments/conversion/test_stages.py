"""Our named stages against what the originals computed, block by block."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax import inference
from dasheng_jax.blocks import unstack_layers
from dasheng_jax.errors import ConfigError
from dasheng_jax.weights.names import encoder_rules
from experiments.conversion.live import places
from experiments.conversion.parity import ROUNDED, compare
from experiments.conversion.stages import (
  default_wave,
  family,
  network_stages,
  probe_wave,
  stage_names,
  stages,
)
from mobile_jax.config import DyMNConfig, MNConfig
from mobile_jax.weights.names import rules
from tests.dasheng_jax.conftest import TINY, with_encoder
from tests.dasheng_jax.fixtures import golden, worst
from tests.mobile_jax.fixtures import stage_errors

# Our names of what the original's recording calls otherwise.
RECORDED = {
  "init_bn": "spec_bn",
  "patches": "patch",
  "tokens": "tokens",
  "block_1": "block1",
  "block_3": "last_block",
  "output": "out",
}


def flipped(variables, path):
  """The variables with one array negated."""
  tree = jax.tree.map(lambda x: x, variables)
  *parents, last = path.split("/")
  node = functools.reduce(lambda node, name: node[name], parents, tree)
  node[last] = -node[last]
  return tree


def test_dasheng_as_recorded(tiny):
  """Shapes too: the layout is the original's."""
  ours = network_stages(*tiny, golden("frontend")["logmel_1s"])
  arrays = golden("encoder")
  theirs = {name: arrays[f"1s_{recorded}"] for name, recorded in RECORDED.items()}
  report = compare(ours, theirs)
  assert report.ok, report
  assert len(report.rows) == 6
  assert report.only_ours == ("block_2",)


def test_dasheng_from_a_real_recording(tiny, dasheng_fixtures):
  front_end = np.load(dasheng_fixtures / "frontend.npz")
  arrays = np.load(dasheng_fixtures / "encoder.npz")
  ours = stages(*tiny, front_end["wave_clip_3s"][None])
  assert tuple(ours) == stage_names(TINY)
  theirs = {
    "log_mel": front_end["logmel_clip_3s"],
    **{name: arrays[f"clip_3s_{RECORDED[name]}"] for name in ("tokens", "block_1", "output")},
  }
  assert compare(ours, theirs).ok


def test_dasheng_is_what_embed_computes(tiny):
  """In chunks as well, the last of them shorter; from numpy arrays and unscanned layers as well."""
  cfg, variables = tiny
  short = with_encoder(cfg, positions=20)
  table = variables["params"]["positions"]
  params = {**variables["params"], "positions": {**table, "time": table["time"][:20]}}
  variables = {**variables, "params": params}
  wave = default_wave(cfg)
  ours = stages(short, jax.tree.map(np.asarray, variables), wave)
  whole = jax.jit(functools.partial(inference.embed, short))(variables, jnp.asarray(wave))
  assert worst(whole, ours["output"]) <= 1e-5
  assert ours["block_1"].shape == (2, 50, 48)
  unscanned = {**variables, "params": {**params, "blocks": unstack_layers(params["blocks"])}}
  half = short.with_compute(scan=False, dtype="bfloat16")
  again = network_stages(half, unscanned, ours["log_mel"])
  assert set(again) == set(ours) - {"log_mel"}
  for name, value in again.items():
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, ours[name], name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounded_weights_stay_within_their_own_tolerance(dtype, tiny):
  cfg, variables = tiny
  wave = default_wave(cfg)
  rounded = jax.tree.map(lambda x: x.astype(dtype).astype(x.dtype), variables)
  ours, theirs = stages(cfg, rounded, wave), stages(cfg, variables, wave)
  assert compare(ours, theirs, ROUNDED[dtype]).ok
  assert not compare(ours, theirs, ROUNDED[dtype] / 100).ok


def test_dasheng_with_the_audioset_head(tiny):
  cfg, variables = tiny
  draw = np.random.default_rng(1)
  head = {
    "norm": {"scale": np.full(48, 2, np.float32), "bias": np.ones(48, np.float32)},
    "logits": {
      "kernel": draw.normal(0, 0.2, (48, 7)).astype(np.float32),
      "bias": draw.normal(0, 1, 7).astype(np.float32),
    },
  }
  wave = default_wave(cfg)
  params = {**variables["params"], "classifier": head}
  ours = stages(cfg, {**variables, "params": params}, wave)
  assert tuple(ours) == (*stage_names(cfg), "logits")
  mean = ours["output"].mean(axis=1, dtype=np.float64)
  centred = mean - mean.mean(-1, keepdims=True)
  normed = 2 * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) + 1
  assert worst(ours["logits"], normed @ head["logits"]["kernel"] + head["logits"]["bias"]) <= 1e-5


@pytest.mark.parametrize(
  ("path", "stage"),
  [
    ("params/init_bn/scale", "init_bn"),
    ("params/patch_embed/bias", "patches"),
    ("params/positions/freq", "tokens"),
    ("params/norm/scale", "output"),
  ],
)
def test_a_flipped_weight_of_dasheng_shows_where_it_acts(path, stage, tiny):
  cfg, variables = tiny
  wave = default_wave(cfg)
  theirs = stages(cfg, variables, wave)
  assert compare(stages(cfg, flipped(variables, path), wave), theirs).first_departure.stage == stage


def test_a_flipped_layer_of_dasheng_shows_at_its_block(tiny):
  cfg, variables = tiny
  wave = default_wave(cfg)
  theirs = stages(cfg, variables, wave)
  layers = variables["params"]["blocks"]["layers"]
  up = {**layers["mlp"]["up"], "bias": layers["mlp"]["up"]["bias"].at[1].multiply(-1)}
  blocks = {"layers": {**layers, "mlp": {**layers["mlp"], "up": up}}}
  params = {**variables["params"], "blocks": blocks}
  report = compare(stages(cfg, {**variables, "params": params}, wave), theirs)
  assert report.first_departure.stage == "block_2"


@pytest.mark.parametrize(
  ("name", "temperature"),
  [
    ("mn01_c_mlp", None),
    # Compiles for seconds; its maps take the same way, and tests/mobile_jax checks them too.
    pytest.param("dymn01_all", 1.0, marks=pytest.mark.slow),
    pytest.param("dymn01_all", 30.0, marks=pytest.mark.slow),
  ],
)
def test_mobile_as_recorded(name, temperature, recorded, variables_of):
  """All 17 maps, the features and the logits, with the kernels that run by default."""
  cfg, _, arrays = recorded(name)
  prefix = ""
  if temperature is not None:
    cfg, prefix = dataclasses.replace(cfg, temperature=temperature), f"T{temperature:.0f}/"
  ours = network_stages(cfg, variables_of(name), np.asarray(recorded(name).log_mel))
  assert tuple(ours) == stage_names(cfg)[1:]
  maps = [ours[stage].transpose(0, 2, 3, 1) for stage in stage_names(cfg)[1:-2]]
  assert max(stage_errors(maps, arrays, prefix)) <= 1e-4
  assert compare(ours, {stage: arrays[prefix + stage] for stage in ("features", "logits")}).ok


@pytest.mark.parametrize("place", ["block_5/project", "block_11/excite/se_c/up", "head/hidden"])
def test_a_flipped_weight_of_mn_shows_at_its_block(place, recorded, variables_of):
  cfg, variables = recorded("mn01_c_mlp").cfg, variables_of("mn01_c_mlp")
  log_mel = np.asarray(recorded("mn01_c_mlp").log_mel)
  wrong = flipped(variables, f"params/{place}/kernel")
  report = compare(network_stages(cfg, wrong, log_mel), network_stages(cfg, variables, log_mel))
  stage = place.split("/")[0]
  assert report.first_departure.stage == ("logits" if stage == "head" else stage)


@pytest.mark.parametrize(
  ("cfg", "table"),
  [
    (TINY, encoder_rules(TINY)),
    (MNConfig(width=0.1), rules(MNConfig(width=0.1))),
    (DyMNConfig(width=0.1), rules(DyMNConfig(width=0.1))),
    (DyMNConfig(dynamic="replace_se"), rules(DyMNConfig(dynamic="replace_se"))),
  ],
)
def test_places_are_submodules_that_hold_weights(cfg, table):
  """Every name of the table of stages stands in the table of weights, in the same order."""
  held = [re.sub(r"\{n\}", str(n), rule.torch) for rule in table for n in range(3)]
  found = places(cfg)
  assert tuple(found) == stage_names(cfg)[1:]
  for stage, place in found.items():
    assert not place.module or any(name.startswith(place.module + ".") for name in held), stage
  assert family(cfg) == {TINY: "dasheng"}.get(cfg, "mn" if isinstance(cfg, MNConfig) else "dymn")


def test_waves_of_every_model():
  wave = probe_wave(0.5, 16_000)
  assert wave.shape == (2, 8000)
  assert wave.dtype == np.float32
  np.testing.assert_array_equal(wave, probe_wave(0.5, 16_000))
  assert 0.2 < np.abs(wave).max() < 1
  assert worst(wave[0], wave[1]) > 0.1
  assert default_wave(TINY).shape == (2, 32_000)
  assert default_wave(MNConfig()).shape == (2, 64_000)
  # Squeeze-and-excitation over time takes one length alone.
  timed = MNConfig(se="ct", frames=300)
  assert timed.mel.frames(default_wave(timed).shape[1]) == 300


def test_a_wave_that_is_too_short(tiny):
  with pytest.raises(ConfigError, match="too short"):
    stages(*tiny, np.zeros((1, 100), np.float32))
