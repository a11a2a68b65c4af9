"""Squeeze-and-excitation against the recorded units, and how every kind of layer starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax.config import make_divisible
from mobile_jax.fused import pool
from mobile_jax.layers import AXES, ConvNorm, Excitation, aggregate, gated, rescale
from tests.mobile_jax.fixtures import nhwc, quick, worst

AXIS_SIZE = {"c": 12, "f": 5, "t": 7}


def excitation(unit, axes, how="max"):
  """(our output, recorded output) of one or several concurrent squeeze-and-excitations."""
  params = {}
  for i, axis in enumerate(axes):
    prefix = f"conc_se_layers.{i}." if len(axes) > 1 else ""
    params[f"se_{axis}"] = {
      ours: {
        "kernel": jnp.asarray(unit.weights[f"{prefix}{theirs}.weight"].T),
        "bias": jnp.asarray(unit.weights[f"{prefix}{theirs}.bias"]),
      }
      for ours, theirs in (("down", "fc1"), ("up", "fc2"))
    }
  module = Excitation(tuple(axes), tuple(AXIS_SIZE[a] for a in axes), 4, how)
  x = nhwc(unit.inputs["x"])
  y, gate, squeezed = module.apply({"params": params}, x, pool(x))
  assert set(squeezed) == set(axes)
  return gated(y, gate), nhwc(unit.outputs[""]), params


@pytest.mark.parametrize("axis", ["c", "f", "t"])
def test_recorded_squeeze_and_excitation(unit, axis):
  ours, theirs, params = excitation(unit(f"se_{axis}"), axis)
  assert worst(ours, theirs) <= 1e-6
  # The recorded bottleneck has the size that our rule gives.
  assert params[f"se_{axis}"]["down"]["kernel"].shape == (AXIS_SIZE[axis], 8)
  assert make_divisible(AXIS_SIZE[axis] // 4) == 8


@pytest.mark.parametrize("how", ["max", "avg", "add", "min"])
def test_recorded_concurrent_squeeze_and_excitation(unit, how):
  ours, theirs, _ = excitation(unit(f"se_cft_{how}"), "cft", how)
  assert worst(ours, theirs) <= 2e-6


def test_bottlenecks_are_given_before_their_relu(unit):
  recorded = unit("se_c")
  weights, x = recorded.weights, nhwc(recorded.inputs["x"])
  want = pool(x) @ weights["fc1.weight"].T + weights["fc1.bias"][None]
  params = {
    "se_c": {
      "down": {"kernel": weights["fc1.weight"].T, "bias": weights["fc1.bias"]},
      "up": {"kernel": weights["fc2.weight"].T, "bias": weights["fc2.bias"]},
    }
  }
  module = Excitation(("c",), (12,), 4, "max")
  _, gate, squeezed = module.apply({"params": jax.tree.map(jnp.asarray, params)}, x, pool(x))
  assert worst(squeezed["c"], np.asarray(want)) <= 1e-6
  assert (np.asarray(squeezed["c"]) < 0).any()
  # Over channels alone, the gate is left to the projection.
  assert gate.shape == (2, 12)


def test_a_clip_of_another_length_is_refused():
  module = Excitation(("t",), (7,), 4, "max")
  x = jnp.ones((1, 5, 9, 12))
  with pytest.raises(ValueError, match=r"over 't' was built for 7 places and meets 9: set mel"):
    module.init(jax.random.key(0), x, pool(x))


@pytest.mark.parametrize("axis", AXES)
def test_rescaling_touches_one_axis(axis):
  x = jnp.ones((2, 3, 4, 5))
  size = x.shape[AXES[axis]]
  gate = jnp.arange(2.0 * size).reshape(2, size)
  y = np.moveaxis(np.asarray(rescale(x, gate, AXES[axis])), AXES[axis], -1)
  np.testing.assert_array_equal(y, np.broadcast_to(np.asarray(gate)[:, None, None], y.shape))


@pytest.mark.parametrize("how", ["max", "min"])
def test_gradient_of_the_joint_maps_is_not_split(how):
  """Where two maps are equal, one of them gets the whole gradient."""
  one = jnp.ones((1, 1, 1, 2))
  slopes = jax.grad(lambda a, b: aggregate([a, b], how).sum(), argnums=(0, 1))(one, one)
  assert float(sum(s.sum() for s in slopes)) == 2.0


@pytest.mark.parametrize(
  ("kind", "inputs", "outputs", "size", "shape", "fan"),
  [
    ("stem", 1, 400, 3, (3, 3, 400), 400 * 9),
    ("pointwise", 60, 200, 1, (60, 200), 200),
    ("depthwise", 400, 400, 5, (5, 5, 400), 400 * 25),
  ],
)
def test_convolutions_start_kaiming_by_fan_out(kind, inputs, outputs, size, shape, fan):
  """Fan-out is not divided by groups, so depthwise kernels start very small, as released."""
  module = ConvNorm(kind, inputs, outputs, size)
  x = jnp.ones((1, 5, 5) if kind == "stem" else (1, 5, 5, inputs))
  kernel = quick(module.init)(jax.random.key(3), x)["params"]["kernel"]
  assert kernel.shape == shape
  assert float(kernel.std()) == pytest.approx(np.sqrt(2 / fan), rel=0.05)
  assert abs(float(kernel.mean())) < 4 * np.sqrt(2 / fan) / np.sqrt(kernel.size)


@pytest.mark.parametrize("kind", ["stem", "pointwise", "depthwise"])
def test_the_folded_form_is_the_same_map(kind):
  rng = np.random.default_rng(0)
  module = ConvNorm(kind, 1 if kind == "stem" else 8, 8, 1 if kind == "pointwise" else 3)
  x = jnp.asarray(rng.normal(size=(2, 6, 7) if kind == "stem" else (2, 6, 7, 8)), jnp.float32)
  state = quick(module.init)(jax.random.key(0), x)
  state = jax.tree.map(lambda a: a + jnp.asarray(rng.uniform(0.1, 0.6, a.shape), a.dtype), state)
  folded = module.apply(state, method="folded").whole()
  plain = state | {
    "params": {"kernel": folded.kernel, "norm": {"scale": jnp.ones(8), "bias": folded.bias}},
    "batch_stats": {"norm": {"mean": jnp.zeros(8), "var": jnp.full(8, 1 - 1e-3), "count": 0}},
  }
  run = quick(module.apply)
  np.testing.assert_allclose(run(plain, x), run(state, x), atol=2e-5)
