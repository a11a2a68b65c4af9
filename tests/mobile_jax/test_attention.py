"""The rivals of coordinate attention against their papers' formulas, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax.attention import ATTENTIONS
from mobile_jax.config import make_divisible
from tests.mobile_jax.fixtures import drawn, worst

CHANNELS = 24


@pytest.fixture(scope="module")
def x():
  return jnp.asarray(np.random.default_rng(4).normal(size=(2, 5, 7, CHANNELS)), jnp.float32)


def sigmoid(z):
  return 1 / (1 + np.exp(-z))


def linear(p, z):
  return z @ p["kernel"] + p["bias"]


def norm(p, stats, z):
  """Inference of batch norm on the last axis."""
  return (z - stats["mean"]) / np.sqrt(stats["var"] + 1e-3) * p["scale"] + p["bias"]


def plane(p, stats, z):
  """Sigmoid of the norm of a 7 x 7 convolution, zero-padded: [b, m, n, 2] -> [b, m, n]."""
  padded = np.pad(z, ((0, 0), (3, 3), (3, 3), (0, 0)))
  out = np.zeros(z.shape[:3])
  for i in range(z.shape[1]):
    for j in range(z.shape[2]):
      out[:, i, j] = np.einsum("bmnc,mnc->b", padded[:, i : i + 7, j : j + 7], p["kernel"][..., 0])
  return sigmoid(norm(p["norm"], stats["norm"], out[..., None])[..., 0])


def both_pools(x, axis):
  return np.stack([x.max(axis), x.mean(axis)], -1)


def se(x, p, stats):
  """1709.01507, eq. 3."""
  z = np.maximum(linear(p["se"]["down"], x.mean((1, 2))), 0)
  return x * sigmoid(linear(p["se"]["up"], z))[:, None, None]


def cbam(x, p, stats):
  """1807.06521, eq. 2 and 3: one perceptron for both poolings, then a plane of places."""
  raw = sum(
    linear(p["up"], np.maximum(linear(p["down"], z), 0)) for z in (x.mean((1, 2)), x.max((1, 2)))
  )
  x = x * sigmoid(raw)[:, None, None]
  return x * plane(p["place"], stats["place"], both_pools(x, 3))[..., None]


def srm(x, p, stats):
  """1903.10829, section 3: mean and deviation, weighted per channel, normalised."""
  raw = x.mean((1, 2)) * p["weight"][0] + x.std((1, 2)) * p["weight"][1]
  return x * sigmoid(norm(p["norm"], stats["norm"], raw))[:, None, None]


def gc(x, p, stats):
  """1904.11492, eq. 4: softmax over places, layer norm in the bottleneck, added."""
  flat = x.reshape(len(x), -1, x.shape[-1])
  score = linear(p["score"], flat)[..., 0]
  share = np.exp(score) / np.exp(score).sum(1, keepdims=True)
  h = linear(p["down"], np.einsum("bn,bnc->bc", share, flat))
  h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
  h = np.maximum(h * p["scale"] + p["bias"], 0)
  return x + linear(p["up"], h)[:, None, None]


def triplet(x, p, stats):
  """2010.03045, eq. 3: each pair of axes gates the map from both pools over the third axis."""
  place = plane(p["frequency_time"], stats["frequency_time"], both_pools(x, 3))[..., None]
  time_channel = plane(p["time_channel"], stats["time_channel"], both_pools(x, 1))[:, None]
  rest = plane(p["frequency_channel"], stats["frequency_channel"], both_pools(x, 2))[:, :, None]
  return (x * place + x * time_channel + x * rest) / 3


def grn(x, p, stats):
  """2301.00808, algorithm 1."""
  energy = np.sqrt((x**2).sum((1, 2)))
  share = energy / (energy.mean(1, keepdims=True) + 1e-6)
  return p["gamma"] * (x * share[:, None, None]) + p["beta"] + x


FORMULAS = {"se": se, "cbam": cbam, "srm": srm, "gc": gc, "triplet": triplet, "grn": grn}


def test_every_rival_has_its_formula():
  assert set(FORMULAS) == set(ATTENTIONS)


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name, x):
  module = ATTENTIONS[name](CHANNELS)
  variables = drawn(jax.eval_shape(module.init, jax.random.key(0), x), seed=8)
  exact = jax.tree.map(lambda a: np.asarray(a, np.float64), variables)
  want = FORMULAS[name](np.asarray(x, np.float64), exact["params"], exact.get("batch_stats"))
  y = module.apply(variables, x)
  assert y.shape == x.shape
  assert worst(y, want) <= 2e-5
  assert worst(y, np.asarray(x)) > 1e-2


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_at_maps_without_variation(name):
  """A silent or constant map, as zero padding gives, has a finite gradient everywhere."""
  module = ATTENTIONS[name](CHANNELS)
  for x in (jnp.zeros((2, 5, 7, CHANNELS)), jnp.ones((2, 5, 7, CHANNELS))):
    variables = drawn(jax.eval_shape(module.init, jax.random.key(0), x), seed=8)
    stats = {k: v for k, v in variables.items() if k == "batch_stats"}

    def energy(params, x, stats=stats, train=False):
      return jnp.sum(module.apply({"params": params, **stats}, x, train) ** 2)

    for gradient in jax.tree.leaves(jax.grad(energy, argnums=(0, 1))(variables["params"], x)):
      assert np.isfinite(gradient).all()


def test_sizes_of_the_bottlenecks(x):
  def width(name, *path):
    shapes = jax.eval_shape(ATTENTIONS[name](CHANNELS).init, jax.random.key(0), x)["params"]
    for part in path:
      shapes = shapes[part]
    return shapes["kernel"].shape[1]

  assert width("se", "se", "down") == make_divisible(CHANNELS // 4) == 8
  assert width("cbam", "down") == width("gc", "down") == 8


def test_global_response_normalisation_starts_as_the_identity(x):
  module = ATTENTIONS["grn"](CHANNELS)
  np.testing.assert_array_equal(module.apply(module.init(jax.random.key(0), x), x), x)
