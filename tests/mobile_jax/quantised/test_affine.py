"""Scales, zeros, and the gradient of simulated quantisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax.quantised.affine import (
  ACTIVATIONS,
  WEIGHTS,
  Affine,
  Levels,
  activation_affine,
  dequantise,
  fake_quantise,
  quantise,
  symmetric_affine,
  weight_affine,
)


def test_channels_with_both_signs_one_sign_and_none():
  kernel = jnp.array(
    [
      [-1.28, 0.5, -0.51, 0.0, 1e-41, -1e-41],
      [1.0, 1.27, -0.1, 0.0, 0.0, 1e-41],
      [0.1, -0.2, -0.2, 0.0, 1e-41, 0.0],
    ],
    jnp.float32,
  )
  kernel = jnp.concatenate([kernel, jnp.array([[0.51], [0.2], [0.3]])], axis=1)
  affine = weight_affine(kernel)
  np.testing.assert_allclose(
    affine.scale, [0.01, 0.01, 0.51 / 255, 0.1, 0.1, 0.1, 0.51 / 255], rtol=1e-6
  )
  np.testing.assert_array_equal(affine.zero, [0, 0, 127, 127, 127, 127, -128])
  q = quantise(kernel, affine, WEIGHTS)
  np.testing.assert_array_equal(q[:, 0], [-128, 100, 10])
  np.testing.assert_array_equal(q[:, 2], [-128, 77, 27])
  np.testing.assert_array_equal(q[:, 6], [127, -28, 22])
  error = jnp.abs(dequantise(q, affine) - kernel)
  assert (error <= affine.scale[None] * 0.5001).all()


def test_pytorchs_conversion_gives_every_channel_the_zero_0():
  affine = symmetric_affine(jnp.array([[-1.275, 0.1, 0.0], [0.3, 0.255, 0.0]]))
  np.testing.assert_allclose(affine.scale, [0.01, 0.002, jnp.finfo(jnp.float32).eps], rtol=1e-6)
  assert not affine.zero.any()


@pytest.mark.parametrize(
  ("low", "high", "scale", "zero"),
  [
    (-1.0, 1.54, 0.02, 50),
    (0.0, 12.7, 0.1, 0),
    (0.5, 12.7, 0.1, 0),  # 0 always belongs to the range
    (-12.7, -0.5, 0.1, 127),
    (0.0, 0.0, 0.1, 0),
  ],
)
def test_ranges_of_activations(low, high, scale, zero):
  affine = activation_affine(jnp.float32(low), jnp.float32(high))
  assert float(affine.scale) == pytest.approx(scale, rel=1e-6)
  assert int(affine.zero) == zero


def test_what_is_simulated_is_what_is_stored_and_ties_go_to_even():
  affine = Affine(jnp.float32(0.5), jnp.int32(3))
  x = jnp.array([-9.0, -1.5, -0.25, 0.0, 0.25, 0.75, 1.0, 61.9, 62.4, 99.0])
  q = quantise(x, affine, ACTIVATIONS)
  np.testing.assert_array_equal(q, [0, 0, 3, 3, 3, 5, 5, 127, 127, 127])
  np.testing.assert_array_equal(dequantise(q, affine), fake_quantise(x, affine, ACTIVATIONS))


def test_the_gradient_passes_within_the_levels_and_nowhere_else():
  affine = Affine(jnp.array([0.5, 1.0]), jnp.array([0, 1]))
  x = jnp.array([[0.2, -3.4], [3.9, -3.6], [4.3, 7.1], [-0.1, 0.0]])

  def total(x):
    return jnp.sum(fake_quantise(x, affine, Levels(-2, 8)) * jnp.arange(1.0, 9.0).reshape(4, 2))

  # -3.6 / 1 rounds to -4, and -4 + 1 is below -2; 4.3 / 0.5 rounds to 9.
  np.testing.assert_array_equal(jax.grad(total)(x), [[1, 2], [3, 0], [0, 6], [7, 8]])


@pytest.mark.parametrize("signs", ["both", "negative", "positive"])
def test_against_pytorchs_own_simulation(signs, torch):
  """Values and gradients of its fused observer and fake quantisation, per channel."""
  from torch.ao.quantization import FusedMovingAvgObsFakeQuantize as Fake
  from torch.ao.quantization import MovingAveragePerChannelMinMaxObserver as Observer

  rng = np.random.default_rng(0)
  w = rng.normal(0, 0.3, (5, 4, 3, 3)).astype(np.float32)
  w = {"both": w, "negative": -np.abs(w), "positive": np.abs(w)}[signs]
  fake = Fake(
    observer=Observer,
    quant_min=-128,
    quant_max=127,
    dtype=torch.qint8,
    qscheme=torch.per_channel_symmetric,
  )
  given = torch.tensor(w, requires_grad=True)
  want = fake(given)
  want.square().sum().backward()
  ours = jnp.asarray(w.transpose(2, 3, 1, 0))
  affine = weight_affine(ours)
  np.testing.assert_allclose(affine.scale, fake.scale.numpy(), rtol=1e-6)
  np.testing.assert_array_equal(affine.zero, fake.zero_point.numpy())
  got, back = jax.vjp(lambda x: fake_quantise(x, weight_affine(x), WEIGHTS), ours)
  np.testing.assert_allclose(got, want.detach().numpy().transpose(2, 3, 1, 0), atol=1e-6)
  gradient = given.grad.numpy().transpose(2, 3, 1, 0)
  np.testing.assert_allclose(back(2 * got)[0], gradient, atol=2e-6)
