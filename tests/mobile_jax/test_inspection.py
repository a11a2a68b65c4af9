"""Disturbed dynamics: what each one moves, and what it must leave alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.errors import ConfigError
from mobile_jax import config
from mobile_jax.config import DyMNConfig
from mobile_jax.dynamic import ContextOutputs
from mobile_jax.inspection import (
  DISTURBANCES,
  applies,
  disturbance,
  disturbed,
  relu_coefficients,
)
from mobile_jax.network import infer, init_variables
from tests.mobile_jax.fixtures import quick

CFG = DyMNConfig(width=0.1, classes=5, temperature=1.0).with_compute(kernels="xla")
# Exact but for the order of float32 sums, which the compiler chooses for every program.
NOISE = 1e-5


@pytest.fixture(scope="module")
def network():
  """Variables far from their start, where gates and coefficients would be all alike."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(config, "_TABLE", (config._TABLE[1],))
    variables = jax.jit(lambda key: init_variables(CFG, key))(jax.random.key(0))
    draw = np.random.default_rng(0)

    def moved(x):
      x = np.asarray(x)
      return x + draw.normal(0, 0.3, x.shape).astype(x.dtype) if x.dtype.kind == "f" else x

    variables = {"params": jax.tree.map(moved, variables["params"]), **_stats(variables)}
    yield jax.tree.map(jnp.asarray, variables)


def _stats(variables):
  return {"batch_stats": jax.device_get(variables["batch_stats"])}


@functools.cache
def program(name, temperature):
  @quick
  def run(network, log_mel, key):
    if not name:
      return infer(CFG, network, log_mel, temperature=temperature).logits
    with disturbed(name, key):
      return infer(CFG, network, log_mel).logits

  return run


def outputs(network, log_mel, name="", seed=0, temperature=None):
  return np.asarray(program(name, temperature)(network, log_mel, jax.random.key(seed)))


@pytest.fixture(scope="module")
def log_mel():
  return jnp.asarray(np.random.default_rng(1).standard_normal((4, 32, 20)), jnp.float32)


@pytest.fixture(scope="module")
def plain(network, log_mel):
  return outputs(network, log_mel)


@pytest.mark.parametrize("name", DISTURBANCES)
def test_every_disturbance_moves_the_answer(network, log_mel, plain, name):
  found = outputs(network, log_mel, name)
  assert np.isfinite(found).all()
  assert np.abs(found - plain).max() > 10 * NOISE
  if name in ("conv_uniform", "conv_max"):
    return
  assert np.abs(outputs(network, log_mel, name, seed=1) - found).max() > 10 * NOISE


@pytest.mark.parametrize("name", ["ca_context", "conv_context", "relu_context"])
def test_contexts_of_equal_clips_can_be_exchanged(network, log_mel, name):
  same = jnp.repeat(log_mel[:1], 4, axis=0)
  found, want = outputs(network, same, name), outputs(network, same)
  np.testing.assert_allclose(found, want, atol=NOISE)


def test_uniform_and_maximum_are_the_ends_of_the_temperature(network, log_mel):
  for name, temperature in (("conv_uniform", 1e9), ("conv_max", 1e-6)):
    want = outputs(network, log_mel, temperature=temperature)
    np.testing.assert_allclose(outputs(network, log_mel, name), want, atol=NOISE)


def test_gates_move_along_their_own_axis():
  draw = np.random.default_rng(2)
  frequency, time = (jnp.asarray(draw.random((2, n, 3)), jnp.float32) for n in (4, 5))
  before = ContextOutputs(jnp.zeros((2, 3)), frequency, time)
  key = jax.random.key(0)
  by_name = {name: DISTURBANCES[name].change(before, key) for name in DISTURBANCES if "ca_" in name}
  np.testing.assert_array_equal(by_name["ca_time"].frequency, frequency)
  np.testing.assert_array_equal(by_name["ca_frequency"].time, time)
  for name, axis in (("ca_context", 0), ("ca_time", 1), ("ca_spatial", 1), ("ca_channel", 2)):
    after = by_name[name]
    np.testing.assert_array_equal(np.sort(after.time, axis=axis), np.sort(time, axis=axis))
    np.testing.assert_array_equal(after.context, before.context)
  # The same clips and channels for both axes: a gate is the product of the two.
  both = ContextOutputs(before.context, time, time)
  for name in ("ca_context", "ca_channel"):
    after = DISTURBANCES[name].change(both, jax.random.key(3))
    np.testing.assert_array_equal(after.frequency, after.time)


def test_nothing_is_left_behind(network, log_mel, plain):
  with pytest.raises(ZeroDivisionError), disturbed("conv_max", jax.random.key(0)):
    raise ZeroDivisionError
  np.testing.assert_array_equal(outputs(network, log_mel), plain)


def test_coefficients_of_every_dynamic_relu(network, log_mel):
  found = relu_coefficients(CFG, network, log_mel)
  assert sorted(found) == ["block_1/relu_depthwise"]
  for n, x in enumerate(found.values()):
    assert x.shape == (4, CFG.blocks[n].expanded, 4)
    assert float(x[..., 0].min()) >= 0  # first slopes lie in 0..2
    assert float(x[..., 0].max()) <= 2


def test_what_a_network_lacks_cannot_be_disturbed():
  def with_(**changes):
    return {n for n in DISTURBANCES if applies(n, dataclasses.replace(CFG, **changes))}

  everything = set(DISTURBANCES)
  assert with_() == everything
  assert with_(relus=()) == {n for n in everything if "relu_" not in n}
  assert with_(convs=()) == {n for n in everything if "conv_" not in n}
  assert with_(attention="se") == {n for n in everything if "ca_" not in n}
  assert everything - with_(attention_axes="time") == {"ca_frequency"}
  assert with_(dynamic="none") == set()
  with pytest.raises(ConfigError, match="did you mean ca_time"):
    disturbance("ca_tim")
