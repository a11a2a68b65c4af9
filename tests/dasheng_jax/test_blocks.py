"""The block stack: its twins agree, and its types are where they should be."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.attention import attend
from dasheng_jax.blocks import BlockStack, stack_layers, unstack_layers
from dasheng_jax.config import ComputeConfig
from dasheng_jax.errors import ConfigError
from dasheng_jax.mae import MaskedAutoencoder
from dasheng_jax.masking import random_mask
from dasheng_jax.weights.table import flatten
from tests.dasheng_jax.fixtures import worst

PATCHES = 12


@pytest.fixture(scope="module")
def case(toy):
  """f(**compute) -> output and gradient of the toy encoder's stack, whichever way computed."""
  cfg, variables = toy
  shape, blocks = cfg.encoder, variables["params"]["encoder"]["blocks"]
  tokens = jax.random.normal(jax.random.key(5), (2, PATCHES, shape.width))
  keep = jnp.arange(PATCHES)[None] < jnp.array([[PATCHES], [5]])

  def run(**compute):
    way = ComputeConfig(**compute)
    init = nn.initializers.xavier_uniform()
    stack = BlockStack(shape.depth, shape.heads, shape.mlp_ratio, way, init)

    def loss(params):
      out = stack.apply({"params": params}, tokens, keep)
      return jnp.mean(jnp.sin(out)), out

    params = blocks if way.scan else unstack_layers(blocks)
    (_, out), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return np.asarray(out), gradient if way.scan else stack_layers(gradient)

  return run


@pytest.fixture(scope="module")
def plain(case):
  return case()


@pytest.mark.parametrize(
  "compute", [{"scan": False, "remat": "block"}, {"remat": "block"}, {"remat": "dots"}], ids=str
)
def test_twins_agree(case, plain, compute):
  out, gradient = case(**compute)
  assert worst(out, plain[0]) <= 2e-6 * np.abs(plain[0]).max()
  paths = jax.tree_util.tree_leaves_with_path(gradient)
  for (path, ours), theirs in zip(paths, jax.tree.leaves(plain[1]), strict=True):
    assert worst(ours, np.asarray(theirs)) <= 1e-5 * float(jnp.abs(theirs).max()) + 1e-8, path


def test_bfloat16_is_close_and_its_gradients_are_float32(case, plain):
  out, gradient = case(dtype="bfloat16")
  assert out.dtype == np.float32
  assert 0 < np.abs(out - plain[0]).mean() < 0.01 * plain[0].std()
  for ours, exact in zip(jax.tree.leaves(gradient), jax.tree.leaves(plain[1]), strict=True):
    assert ours.dtype == jnp.float32
    # The key third of the bias has no effect, so its gradient is rounding alone: hence the sum.
    assert float(jnp.abs(ours - exact).sum()) < 0.1 * float(jnp.abs(exact).sum()) + 1e-4


def test_types_inside_under_bfloat16(toy):
  """Products in bfloat16; norms, softmax, residual sums, statistics and prediction in float32."""
  cfg, variables = toy
  cfg = cfg.with_compute(dtype="bfloat16", scan=False)
  params = {k: {**v, "blocks": unstack_layers(v["blocks"])} for k, v in variables["params"].items()}
  masking = random_mask(jax.random.key(6), 1, PATCHES, cfg.mask_ratio, cfg.mask_group)

  def run(log_mel):
    return MaskedAutoencoder(cfg).apply(
      {**variables, "params": params},
      log_mel,
      masking,
      True,
      capture_intermediates=True,
      mutable=["intermediates", "batch_stats"],
    )

  pred, state = jax.eval_shape(run, jax.ShapeDtypeStruct((1, 64, 4 * PATCHES), jnp.float32))
  assert pred.dtype == jnp.float32
  types: dict[str, set] = {}
  for path, leaf in flatten(state["intermediates"]).items():
    module = path.removesuffix("/__call__").split("/")[-1]
    types.setdefault(module, set()).add(leaf[0].dtype.name)
  for module in ("init_bn", "attn_norm", "mlp_norm", "norm", "layer_0", "layer_1"):
    assert types[module] == {"float32"}, module
  for module in ("attn", "mlp", "up", "down", "input_proj"):
    assert types[module] == {"bfloat16"}, module
  stats = {x.dtype.name for x in jax.tree.leaves(state["batch_stats"])}
  assert stats == {"float32", "int32"}
  text = jax.make_jaxpr(run)(jnp.zeros((1, 64, 4 * PATCHES))).pretty_print(use_color=False)
  softmax = [line for line in text.splitlines() if " = exp " in line]
  assert softmax
  assert all(":f32[" in line for line in softmax)


def test_attention_against_a_plain_softmax():
  q, k, v = (
    np.asarray(jax.random.normal(key, (2, 5, 3, 4)))
    for key in jax.random.split(jax.random.key(0), 3)
  )
  keep = np.array([[True] * 5, [True, False, True, False, False]])
  scores = np.einsum("bqhc,bkhc->bhqk", q, k) / 2.0
  weights = np.exp(scores) * keep[:, None, None, :]
  weights /= weights.sum(-1, keepdims=True)
  expected = np.einsum("bhqk,bkhc->bqhc", weights, v)
  ours = attend(*map(jnp.asarray, (q, k, v)), jnp.asarray(keep), "xla")
  np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_attention_with_nothing_to_attend_to_is_uniform():
  v = jax.random.normal(jax.random.key(1), (1, 4, 2, 3))
  out = attend(3 * v, v, v, jnp.zeros((1, 4), bool), "xla")
  mean = np.broadcast_to(np.asarray(v).mean(1, keepdims=True), v.shape)
  np.testing.assert_allclose(out, mean, atol=1e-6)


def test_unstack_and_stack(toy):
  blocks = toy[1]["params"]["encoder"]["blocks"]
  apart = unstack_layers(blocks)
  assert sorted(apart) == ["layer_0", "layer_1"]
  for a, b in zip(jax.tree.leaves(stack_layers(apart)), jax.tree.leaves(blocks), strict=True):
    np.testing.assert_array_equal(a, b)


def test_fused_kernel_needs_bfloat16():
  with pytest.raises(ConfigError, match=r"attention 'cudnn' needs model.compute.dtype bfloat16"):
    ComputeConfig(attention="cudnn")
