"""Batch norm: the biased variance normalises, the unbiased one is remembered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax.norm import BatchNorm
from tests.mobile_jax.fixtures import quick


@pytest.fixture
def x():
  return jnp.asarray(np.random.default_rng(0).normal(2, 3, (3, 4, 5, 6)), jnp.float32)


def variables(channels, mean=0.0, var=1.0):
  rng = np.random.default_rng(1)
  params = {
    name: jnp.asarray(rng.normal(1, 0.3, channels), jnp.float32) for name in ("scale", "bias")
  }
  stats = {"mean": jnp.full(channels, mean), "var": jnp.full(channels, var), "count": jnp.int32(4)}
  return {"params": params, "batch_stats": stats}


@pytest.mark.parametrize("momentum", [0.01, 0.1])
def test_training_follows_the_biased_and_unbiased_rule(x, momentum):
  state = variables(6, 0.5, 2.0)
  norm = BatchNorm(6, momentum=momentum)
  y, updated = norm.apply(state, x, True, mutable=["batch_stats"])
  values = np.asarray(x, np.float64).reshape(-1, 6)
  mean, biased, unbiased = values.mean(0), values.var(0), values.var(0, ddof=1)
  scale, bias = state["params"]["scale"], state["params"]["bias"]
  want = (values - mean) / np.sqrt(biased + 1e-3) * np.asarray(scale) + np.asarray(bias)
  np.testing.assert_allclose(np.asarray(y).reshape(-1, 6), want, atol=1e-5)
  stats = updated["batch_stats"]
  np.testing.assert_allclose(stats["mean"], (1 - momentum) * 0.5 + momentum * mean, rtol=1e-6)
  np.testing.assert_allclose(stats["var"], (1 - momentum) * 2 + momentum * unbiased, rtol=1e-6)
  assert stats["count"] == 5
  # The two variances differ enough here for the test to tell them apart.
  assert np.abs(unbiased / biased - 1).min() > 0.01


def test_inference_uses_the_running_statistics(x):
  state = variables(6, 0.5, 2.0)
  y = BatchNorm(6).apply(state, x)
  scale, bias = state["params"]["scale"], state["params"]["bias"]
  want = (np.asarray(x) - 0.5) / np.sqrt(2 + 1e-3) * np.asarray(scale) + np.asarray(bias)
  np.testing.assert_allclose(y, want, atol=1e-5)


def test_folding_is_the_same_map(x):
  state = variables(6, 0.5, 2.0)
  scale, bias = BatchNorm(6).apply(state, method="folded")
  y = BatchNorm(6).apply(state, x)
  np.testing.assert_allclose(x * scale[None, None, None] + bias[None, None, None], y, atol=1e-5)


def test_statistics_stay_where_they_are_not_asked_for(x):
  state = variables(6)
  y = BatchNorm(6).apply(state, x, True)  # no mutable collection: normalises, remembers nothing
  assert y.shape == x.shape
  fresh = BatchNorm(6).init(jax.random.key(0), x, True)["batch_stats"]
  np.testing.assert_array_equal(fresh["mean"], np.zeros(6))
  np.testing.assert_array_equal(fresh["var"], np.ones(6))
  assert fresh["count"] == 0


def test_one_value_per_channel_does_not_divide_by_zero():
  y, updated = BatchNorm(3).apply(variables(3), jnp.ones((1, 3)), True, mutable=["batch_stats"])
  assert np.isfinite(y).all()
  assert np.isfinite(updated["batch_stats"]["var"]).all()


def test_bfloat16_maps_are_normalised_in_float32(x):
  state = variables(6)
  half = x.astype(jnp.bfloat16)
  y, updated = BatchNorm(6).apply(state, half, True, mutable=["batch_stats"])
  exact, _ = BatchNorm(6).apply(state, half.astype(jnp.float32), True, mutable=["batch_stats"])
  assert y.dtype == jnp.float32
  np.testing.assert_array_equal(y, exact)
  assert updated["batch_stats"]["var"].dtype == jnp.float32


def test_gradients_of_training_are_those_of_the_formula(x):
  """Through mean and biased variance too; whatever form the backward pass has."""
  state, weight = variables(6), jnp.cos(3 * x)

  def ours(params, x):
    y, _ = BatchNorm(6).apply({**state, "params": params}, x, True, mutable=["batch_stats"])
    return jnp.sum(weight * jnp.sin(y))

  def formula(params, x):
    flat = x.reshape(-1, 6)
    centred = flat - flat.mean(0, keepdims=True)
    y = centred / jnp.sqrt((centred**2).mean(0, keepdims=True) + 1e-3)
    y = y * params["scale"][None] + params["bias"][None]
    return jnp.sum(weight.reshape(-1, 6) * jnp.sin(y))

  found, wanted = (
    quick(jax.grad(function, argnums=(0, 1)))(state["params"], x) for function in (ours, formula)
  )
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5 * float(jnp.abs(other).max()))
