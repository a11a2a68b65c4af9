"""Folding, ranges, integers, and their file, on a small network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mobile_jax
from dasheng_jax.errors import WeightsError
from mobile_jax.network import infer, shapes
from mobile_jax.quantised import (
  convert,
  float_logits,
  fold,
  integer_logits,
  integer_tag,
  points,
  read_integers,
  simulated_logits,
  write_integers,
)
from mobile_jax.quantised.affine import ACTIVATIONS, STORED, dequantise
from mobile_jax.quantised.files import integer_shapes, size_in_bytes
from mobile_jax.quantised.fold import convolutions
from mobile_jax.quantised.integer import _Integers, _Map, convolve
from mobile_jax.quantised.simulate import _Simulation, affines
from mobile_jax.quantised.walk import Arithmetic, walk
from mobile_jax.scene_config import SCENE_SIZES
from tests.mobile_jax.fixtures import quick
from tests.mobile_jax.quantised.conftest import SMALL

# Of the largest logit: float32 noise of a folded network, other roundings at every layer.
NOISE = 2e-5


def test_folding_changes_nothing_but_the_count(small):
  cfg, variables, folded, mel = small
  want = quick(lambda v, x: infer(cfg, v, x).logits)(variables, mel)
  got = quick(lambda p, x: float_logits(cfg, p, x))(folded, mel)
  np.testing.assert_allclose(got, want, rtol=0, atol=NOISE * np.abs(want).max())


# Reference text of the scene models, section 2.4.
COUNTS = {32: 124_862, 64: 477_030, 96: 1_103_150, 184: 3_945_730, 264: 8_075_874}


@pytest.mark.parametrize(
  "base", [n if n == 32 else pytest.param(n, marks=pytest.mark.slow) for n in COUNTS]
)
def test_counts_after_folding(base):
  cfg = SCENE_SIZES[f"cp_mobile_{base}"]
  folded = jax.eval_shape(lambda v: fold(cfg, v), shapes(cfg))
  assert sum(x.size for x in jax.tree.leaves(folded)) == COUNTS[base]


def test_the_points_and_the_size_of_the_student():
  cfg = SCENE_SIZES["cp_mobile_32"]
  assert len(points(cfg)) == len(set(points(cfg))) == 34
  integers = integer_shapes(cfg)
  kernels = sum(x.size for x in jax.tree.leaves(integers) if x.dtype == jnp.int8 and x.ndim > 1)
  biases = sum(x.size for x in jax.tree.leaves(integers) if x.dtype == jnp.float32)
  assert kernels == 122_760
  # A byte for a weight; a bias, a scale and a zero for each of 2,090 channels; points; GRN.
  assert size_in_bytes(integers) == kernels + 2_090 * 9 + 34 * 5 + 12 * 4
  assert biases == 2 * 2_090 + 34 + 12


def test_the_first_batch_sets_the_ranges_and_later_ones_move_them(small, step, measured):
  cfg, _, folded, mel = small
  _, first, _ = measured
  at = {name: i for i, name in enumerate(points(cfg))}
  assert float(first["low"][0]) == float(mel.min())
  assert float(first["high"][0]) == float(mel.max())
  assert int(first["batches"]) == 1
  (_, (_, second)), _ = step(folded, first, 3 * mel, True)
  np.testing.assert_allclose(
    second["high"][0], 0.99 * first["high"][0] + 0.01 * 3 * mel.max(), rtol=1e-6
  )
  assert int(second["batches"]) == 2
  (_, (_, frozen)), _ = step(folded, first, 3 * mel, False)
  jax.tree.map(np.testing.assert_array_equal, frozen, first)
  # Block 2 changes the width: nothing passes its sum, which keeps scale 1 and zero 0.
  kept = [name for name, i in at.items() if second["high"][i] == 127 and not second["low"][i]]
  assert kept == ["block_2/sum"]
  assert affines(cfg, second)["block_2/sum"] == (1.0, 0)


def test_gradients_reach_every_parameter(small, step, measured):
  _, _, folded, mel = small
  _, gradient = step(folded, measured[1], mel, True)
  silent = [
    jax.tree_util.keystr(path)
    for path, x in jax.tree_util.tree_leaves_with_path(gradient)
    if not np.isfinite(x).all() or not np.any(x)
  ]
  assert silent == []


class BothWays(Arithmetic):
  """Walks in integers; every step is also simulated, from what the integers before it stand for.

  apart: {step: differences in units of the step's scale}.
  """

  def __init__(self, cfg, folded, ranges, integers):
    self.integer = _Integers(cfg, integers, ACTIVATIONS)
    self.simulation = _Simulation(cfg, folded, ranges)
    self.apart = {}

  def noted(self, step, *given):
    """What integers make of maps and what else a step is given."""
    x = getattr(self.integer, step)(*given)
    want = getattr(self.simulation, step)(*[value(one) for one in given])
    self.apart[f"{step} {len(self.apart)}"] = (value(x) - want) / x.affine.scale
    return x

  def enter(self, log_mel):
    return self.noted("enter", log_mel)

  def convolve(self, x, which):
    return self.noted("convolve", x, which)

  def pool(self, x, stride):
    return self.noted("pool", x, stride)

  def add(self, x, y, name):
    return self.noted("add", x, y, name)

  def respond(self, x, name):
    return self.noted("respond", x, name)

  def relu(self, x):
    return self.noted("relu", x)

  def leave(self, x):
    got, want = self.integer.leave(x), self.simulation.leave(value(x))
    self.apart["leave"] = (got - want) / x.affine.scale
    return got


def value(x):
  """What a map of integers stands for; all else as it is."""
  return dequantise(x.q.astype(jnp.int32), x.affine) if isinstance(x, _Map) else x


def test_every_integer_step_is_the_simulated_one(small, measured):
  """But for ties, which float32 noise decides; means, which integers alone round, are half a step
  apart at most.
  """
  cfg, _, folded, mel = small
  _, ranges, integers = measured

  def both(folded, ranges, integers, mel):
    how = BothWays(cfg, folded, ranges, integers)
    logits = walk(cfg, how, mel)
    return logits, simulated_logits(cfg, folded, ranges, mel), how.apart

  logits, simulated, found = quick(both)(folded, ranges, integers, mel)
  # Ties have not carried far in so small a network; the loss of a zero or a bias would.
  np.testing.assert_allclose(simulated, measured[0], rtol=0, atol=NOISE)
  assert np.abs(logits - simulated).max() < 0.1 * np.abs(simulated).max()
  # Input, convolutions, sums, a pool, responses and ReLUs of three blocks, and the last mean.
  assert len(found) == 1 + len(convolutions(cfg)) + 2 + 1 + 3 + 3 + 1
  for name, steps in found.items():
    if name.startswith(("pool", "leave")):
      assert np.abs(steps).max() <= 0.501, name
    else:
      assert np.abs(steps).max() < 1.001, name
      assert np.mean(np.abs(steps) > 1e-3) <= 1e-3, name


def test_integers_go_on_where_the_simulation_stops(small, measured):
  """Louder than what was measured: eight bits reach to 255."""
  cfg, _, _, mel = small
  run = quick(
    lambda i, x: [integer_logits(cfg, i, x, levels=levels) for levels in (ACTIVATIONS, STORED)]
  )
  narrow, wide = run(measured[2], 3 * mel)
  assert np.abs(narrow - wide).max() > 0


@pytest.mark.parametrize("kind", ["stem", "dense", "pointwise", "depthwise"])
def test_integer_convolutions_are_those_of_floats(kind):
  """Of small integers float32 is exact too; the form of XLA serves as reference."""
  rng = np.random.default_rng(3)
  which = next(one for one in convolutions(SMALL) if one.kind == kind)
  which = which._replace(stride=(2, 1) if kind == "depthwise" else which.stride)
  inputs = 1 if kind == "stem" else 4
  x = rng.integers(-127, 256, (2, 7, 6, inputs)).astype(np.int32)
  shape = {"stem": (3, 3, 5), "dense": (3, 3, 4, 5), "pointwise": (4, 5), "depthwise": (3, 3, 4)}
  kernel = rng.integers(-255, 256, shape[kind]).astype(np.int32)
  wide = {"pointwise": kernel[None, None], "dense": kernel}.get(kind)
  wide = kernel[:, :, None] if wide is None else wide
  pad = 0 if kind == "pointwise" else 1
  want = jax.lax.conv_general_dilated(
    jnp.asarray(x, jnp.float32),
    jnp.asarray(wide, jnp.float32),
    which.stride,
    ((pad, pad), (pad, pad)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=4 if kind == "depthwise" else 1,
  )
  got = convolve(jnp.asarray(x), jnp.asarray(kernel), which)
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, want)


def test_integers_come_back_from_their_file(small, measured, tmp_path):
  cfg, _, _, _ = small
  path = write_integers(tmp_path / "int8.safetensors", cfg, measured[2])
  again, same = read_integers(path)
  assert again == dataclasses.replace(cfg, compute=again.compute)
  jax.tree.map(np.testing.assert_array_equal, same, dict(measured[2]))
  wave = jax.ShapeDtypeStruct((2, 8_000), jnp.float32)
  assert jax.eval_shape(lambda i, w: integer_tag(again, i, w), same, wave).shape == (2, 3)
  with pytest.raises(WeightsError, match="cp_mobile_int8"):
    mobile_jax.read_model(path)


def test_files_that_hold_no_integers_are_refused_in_a_line(small, measured, tmp_path):
  path = write_integers(tmp_path / "int8.safetensors", SMALL, measured[2])
  arrays = load_file(path)
  from safetensors import safe_open

  with safe_open(path, framework="numpy") as file:
    notes = file.metadata()
  save_file(arrays, tmp_path / "bare.safetensors")
  save_file({**arrays, "more": np.zeros(1)}, tmp_path / "more.safetensors", metadata=notes)
  wrong = {**arrays, "head/kernel": arrays["head/kernel"].astype(np.float32)}
  save_file(wrong, tmp_path / "float.safetensors", metadata=notes)
  (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-9])
  for name, message in (
    ("none", "no such weight file"),
    ("bare", "says of no network"),
    ("more", "more is in the file alone"),
    ("float", "head/kernel is float32"),
    ("cut", "cut.safetensors"),
  ):
    with pytest.raises(WeightsError, match=message) as refused:
      read_integers(tmp_path / f"{name}.safetensors")
    assert "\n" not in str(refused.value)


def test_conversion_as_pytorchs_has_no_zeros(small, measured):
  cfg, _, folded, _ = small
  made = quick(lambda p, r: convert(cfg, p, r, "symmetric"))(folded, measured[1])
  assert not any(made[n]["zero"].any() for n in ("stem", "second", "head"))
