"""The three heads on small maps: recorded attention pooling, the other two by their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax.fused import pool
from mobile_jax.heads import AttentionHead, ConvHead, MlpHead
from mobile_jax.ops import hardswish
from tests.mobile_jax.fixtures import drawn, nhwc, worst


@pytest.fixture
def x():
  return jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 5, 6)), jnp.float32)


def fresh(module, x):
  return drawn(jax.eval_shape(module.init, jax.random.key(0), x, pool(x)))


def test_recorded_attention_pooling(unit):
  recorded = unit("mhap")
  params = {
    "head_weight": jnp.asarray(recorded.weights["head_weight"].reshape(3)),
    "subspaces": {
      "kernel": jnp.asarray(recorded.weights["subspace_proj.weight"].T),
      "bias": jnp.asarray(recorded.weights["subspace_proj.bias"]),
    },
  }
  x = nhwc(recorded.inputs["x"])
  logits, hidden = AttentionHead(6, 4, 3).apply({"params": params}, x, pool(x))
  assert worst(logits, recorded.outputs[""]) <= 1e-6
  assert hidden is None


def test_attention_head_starts_with_equal_shares(x):
  variables = AttentionHead(6, 4, 5).init(jax.random.key(0), x, pool(x))
  np.testing.assert_allclose(variables["params"]["head_weight"], np.full(5, 0.2), rtol=1e-6)


def test_saturated_attention_stays_finite(x):
  """All weights at 0 would divide by nothing; the margin keeps them off."""
  module = AttentionHead(6, 4, 3)
  variables = fresh(module, x)
  variables["params"]["subspaces"]["bias"] -= 1000.0
  logits, _ = module.apply(variables, x, pool(x))
  assert np.isfinite(logits).all()


def test_mlp_head(x):
  module = MlpHead(6, 10, 4, 0.5)
  variables = fresh(module, x)
  one, two = variables["params"]["hidden"], variables["params"]["logits"]
  want = hardswish(pool(x) @ one["kernel"] + one["bias"][None])
  logits, hidden = module.apply(variables, x, pool(x))
  assert worst(hidden, np.asarray(want)) <= 1e-6
  assert worst(logits, np.asarray(want @ two["kernel"] + two["bias"][None])) <= 1e-6


def test_dropout_is_in_training_alone_and_behind_the_hidden_layer(x):
  module = MlpHead(6, 10, 4, 0.5)
  variables = fresh(module, x)
  still, hidden = module.apply(variables, x, pool(x))
  run = [
    module.apply(variables, x, pool(x), True, rngs={"dropout": jax.random.key(seed)})
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(run[0][0], run[1][0])
  assert worst(run[0][0], np.asarray(run[2][0])) > 1e-3
  assert worst(run[0][0], np.asarray(still)) > 1e-3
  np.testing.assert_array_equal(run[0][1], hidden)


def test_fully_convolutional_head(x):
  """Its norm has PyTorch's own constants: eps 1e-5, momentum 0.1."""
  module = ConvHead(6, 4)
  variables = fresh(module, x)
  kernel, norm = variables["params"]["kernel"], variables["params"]["norm"]
  stats = variables["batch_stats"]["norm"]
  maps = np.einsum("bftc,cd->bftd", np.asarray(x, np.float64), kernel)

  def normalised(mean, var):
    y = (maps - mean) / np.sqrt(var + 1e-5) * np.asarray(norm["scale"]) + np.asarray(norm["bias"])
    return y.mean((1, 2))

  logits, hidden = module.apply(variables, x, pool(x))
  assert hidden is None
  assert worst(logits, normalised(np.asarray(stats["mean"]), np.asarray(stats["var"]))) <= 1e-5
  (logits, _), new = module.apply(variables, x, pool(x), True, mutable=["batch_stats"])
  flat = maps.reshape(-1, 4)
  assert worst(logits, normalised(flat.mean(0), flat.var(0))) <= 1e-5
  wanted = 0.9 * np.asarray(stats["mean"]) + 0.1 * flat.mean(0)
  assert worst(new["batch_stats"]["norm"]["mean"], wanted) <= 1e-6
