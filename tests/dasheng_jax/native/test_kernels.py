"""The products and the attention of the CPU against the same on XLA, values and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax import native
from dasheng_jax.attention import attend
from dasheng_jax.blocks import Block, BlockStack
from dasheng_jax.config import ComputeConfig
from dasheng_jax.native import kernels

NOISE = 4e-6  # float32 sums of up to 3072 terms, relative to the largest value
SHAPES = [
  # rows of one tile and of many, sums of one piece and of many, columns with half a panel
  (1, 1, 16, 16),
  (1, 33, 272, 16),
  (3, 17, 272, 528),
  (2, 150, 768, 48),
  (1, 15, 3072, 64),
]


@pytest.fixture(autouse=True)
def _compiler():
  if not native.available():
    pytest.skip("needs the native kernels: a CPU backend and a C++17 compiler")


@pytest.fixture
def draw():
  rng = np.random.default_rng(3)
  return lambda *shape: jnp.asarray(rng.normal(size=shape).astype(np.float32))


def close(got, want):
  got, want = np.asarray(got), np.asarray(want)
  assert got.shape == want.shape
  np.testing.assert_allclose(got, want, rtol=0, atol=NOISE * np.abs(want).max() + 1e-30)


def check(function, reference, operands, dy):
  """Value and all gradients."""
  for f, g in zip(*(both(f, operands, dy) for f in (function, reference)), strict=True):
    close(f, g)


def both(function, operands, dy):
  def run(operands, dy):
    y, backward = jax.vjp(function, *operands)
    return y, *backward(dy)

  return jax.jit(run)(operands, dy)


def plain_dense(x, kernel, bias):
  return jnp.matmul(x, kernel) + bias[None, None]


def plain_mlp(x, up, up_bias, down, down_bias):
  hidden = jax.nn.gelu(plain_dense(x, up, up_bias), approximate=False)
  return plain_dense(hidden, down, down_bias)


@pytest.mark.parametrize("shape", SHAPES)
def test_dense(draw, shape):
  b, t, i, o = shape
  check(native.dense, plain_dense, (draw(b, t, i), draw(i, o), draw(o)), draw(b, t, o))


@pytest.mark.parametrize(("rows", "width", "wide"), [(62, 64, 256), (300, 32, 48)])
def test_mlp(draw, rows, width, wide):
  operands = (draw(1, rows, width), 0.3 * draw(width, wide), draw(wide), draw(wide, width))
  check(native.mlp, plain_mlp, (*operands, draw(width)), draw(1, rows, width))


def test_gelu_far_from_zero(draw):
  """Where the fitted erf ends, and far behind it."""
  x = jnp.asarray(
    [-1e30, -50.0, -6.0, -5.8, -5.5, -5.3, 0.0, 5.3, 5.5, 5.8, 6.0, 50.0, 1e30, 1.0, -1e-30, 1e-30]
  )
  one, nothing = jnp.eye(16), jnp.zeros(16)
  operands = (x[None, None], one, nothing, one, nothing)
  y, dx = (both(f, operands, jnp.ones((1, 1, 16)))[:2] for f in (native.mlp, plain_mlp))
  for got, want in zip(y, dx, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
  ("b", "t", "h", "c"),
  [(1, 1, 2, 16), (2, 17, 3, 48), (2, 40, 4, 80), (1, 62, 2, 64), (1, 250, 1, 32)],
)
def test_attention(draw, b, t, h, c, masked):
  keep = None
  if masked:
    keep = jnp.asarray(np.random.default_rng(5).random((b, t)) > 0.3).at[-1].set(False)

  def plain(qkv):
    return attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], keep, "xla")

  check(lambda qkv: native.attention(qkv, keep), plain, (draw(b, t, 3, h, c),), draw(b, t, h, c))


def test_scores_of_any_size(draw):
  """Weights that are all at one key, and scores near the end of float32."""
  qkv = draw(1, 40, 3, 2, 16) * jnp.asarray([1e3, 1e3, 1.0])[None, None, :, None, None]
  close(native.attention(qkv), attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], None, "xla"))


def test_what_is_not_a_number_is_seen(draw):
  """A NaN reaches what depends on it, and nothing else."""
  x = draw(1, 20, 32).at[0, 7, 3].set(jnp.nan)
  bad = np.isnan(native.mlp(x, draw(32, 64), draw(64), draw(64, 32), draw(32)))[0].all(axis=1)
  assert bad.tolist() == [row == 7 for row in range(20)]
  qkv = draw(2, 20, 3, 1, 16).at[1, 4, 1, 0, 2].set(jnp.nan)
  out = np.isnan(native.attention(qkv))
  assert not out[0].any()
  assert out[1].all()


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0x7F800001, 0xFFFFFFFF])
def test_every_kind_of_nan_is_seen(draw, bits):
  qkv = np.array(draw(1, 20, 3, 1, 16))
  qkv.view(np.uint32)[0, 4, 1, 0, 2] = bits
  assert np.isnan(native.attention(jnp.asarray(qkv))).all()


def test_what_the_mask_leaves_out_gets_no_gradient(draw):
  """Of its own, that is, even where the others' is not finite: as where XLA selects."""
  keep = jnp.asarray([[True] * 12 + [False] * 8])
  dy = draw(1, 20, 1, 16).at[0, 3, 0, 0].set(jnp.inf)
  qkv = draw(1, 20, 3, 1, 16)
  _, backward = jax.vjp(lambda qkv: native.attention(qkv, keep), qkv)
  keys = np.asarray(backward(dy)[0])[0, :, 1]
  assert np.isnan(keys[:12]).any()
  assert not np.isnan(keys[12:]).any()


def test_mapped_and_evaluated_at_once(draw):
  x, kernel, bias = draw(3, 2, 5, 32), draw(32, 48), draw(48)
  got = jax.vmap(native.dense, in_axes=(0, None, None))(x, kernel, bias)
  close(got, jnp.stack([plain_dense(one, kernel, bias) for one in x]))


@pytest.mark.parametrize("scan", [False, True])
def test_products_are_kept_where_they_should(draw, scan):
  """Products and attentions of a program with the gradients of one block, by remat policy."""
  x = draw(1, 4, 256)
  counts = {}
  for remat in ("none", "block", "dots"):
    compute = ComputeConfig(remat=remat, scan=scan)
    stack = BlockStack(1, 4, 2.0, compute, jax.nn.initializers.xavier_uniform())
    variables = jax.eval_shape(stack.init, jax.random.key(0), x)
    loss = jax.grad(lambda v, x, stack=stack: stack.apply(v, x).sum())
    text = str(jax.make_jaxpr(loss)(variables, x))
    counts[remat] = [
      text.count(f"target={name}\n") for name in ("dasheng_product", "dasheng_attention")
    ]
  # Four forwards, four backwards. "block" makes the first three again: nobody reads the last.
  assert counts == {"none": [8, 1], "block": [11, 2], "dots": [8, 2]}


@pytest.mark.parametrize("masked", [False, True])
def test_a_block_is_the_same(draw, masked):
  """One block of a width that is handed over, its gradients, and the mask."""
  x, dy = draw(2, 20, 256), draw(2, 20, 256)
  keep = jnp.arange(20)[None] < jnp.asarray([[20], [11]]) if masked else None
  blocks = [
    Block(4, 2.0, ComputeConfig(kernels=k), jax.nn.initializers.xavier_uniform())
    for k in ("auto", "xla")
  ]
  variables = jax.jit(blocks[0].init)(jax.random.key(0), x)
  programs = [jax.jit(block.apply).lower(variables, x, keep).as_text() for block in blocks]
  assert ["@dasheng_attention" in text for text in programs] == [True, False]
  run = [both(lambda v, x, b=block: b.apply(v, x, keep), (variables, x), dy) for block in blocks]
  jax.tree.map(close, *run)


def test_what_is_handed_over(draw):
  x = draw(1, 4, 256)
  assert native.takes(x, 256, 64)
  assert not native.takes(x[..., :64], 64, 256)  # an MLP in a stack below kernels.LEAST_WIDTH
  assert not native.takes(x, 260)
  assert not native.takes(x.astype(jnp.bfloat16), 256)
  with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
    assert not native.takes(x, 256)


def test_what_does_not_fit_is_named(draw, unchecked):
  with pytest.raises(ValueError, match=r"bias has shape \(16,\), want \(32,\)"):
    native.dense(draw(1, 4, 16), draw(16, 32), draw(16))
  with pytest.raises(ValueError, match="its last axis is no multiple of 16"):
    native.dense(draw(1, 4, 8), draw(8, 32), draw(32))
  with pytest.raises(ValueError, match="kernel has dtype bfloat16, want float32"):
    native.dense(draw(1, 4, 16), draw(16, 32).astype(jnp.bfloat16), draw(32))


def test_switched_off_by_the_configuration(draw, monkeypatch):
  monkeypatch.setattr(kernels, "call", lambda *a, **k: pytest.fail("must not be called"))
  xla = dataclasses.replace(ComputeConfig(), kernels="xla")
  block = Block(4, 2.0, xla, jax.nn.initializers.xavier_uniform())
  x = draw(1, 4, 256)
  jax.eval_shape(block.init, jax.random.key(0), x)


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_stored_or_made_for_another_platform_holds_no_call(draw, masked):
  """Value and gradients of a stored program, and a text for a TPU."""
  x, dy = draw(2, 20, 256), draw(2, 20, 256)
  keep = jnp.arange(20)[None] < jnp.asarray([[20], [11]]) if masked else None
  block = Block(4, 2.0, ComputeConfig(), jax.nn.initializers.xavier_uniform())
  variables = jax.jit(block.init)(jax.random.key(0), x)

  def run(variables, x, dy):
    y, backward = jax.vjp(lambda v, x: block.apply(v, x, keep), variables, x)
    return y, *backward(dy)

  stored = jax.export.export(jax.jit(run))(variables, x, dy)
  assert "@dasheng_" not in stored.mlir_module()
  again = jax.export.deserialize(stored.serialize())
  jax.tree.map(close, again.call(variables, x, dy), jax.jit(run)(variables, x, dy))
  traced = jax.jit(run).trace(variables, x, dy)
  assert "@dasheng_attention_gradient" in traced.lower().as_text()
  assert "@dasheng_" not in traced.lower(lowering_platforms=("tpu",)).as_text()
