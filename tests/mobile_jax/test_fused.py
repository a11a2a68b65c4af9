"""The fused halves of a block: C++ and plain forms agree, and so do their derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax import fused, native, ops
from mobile_jax.fused import Folded, Gates
from tests.mobile_jax.fixtures import quick

NOISE = 2e-5


@pytest.fixture
def draw():
  rng = np.random.default_rng(7)
  return lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)


def both(function, *operands):
  """[plain, quick], or the plain form twice without a compiler."""
  return [quick(functools.partial(function, kernels=how))(*operands) for how in ("xla", "auto")]


def halves(draw, kind):
  """(x, expand, middle, gates) of a block without, with one and with all dynamic parts."""
  x, middle = draw(2, 6, 9, 8), Folded(draw(3, 3, 16), draw(16))
  expand, gates = Folded(draw(8, 16), draw(16)), Gates()
  if kind == "no expansion":
    expand, x = None, draw(2, 6, 9, 16)
  if kind == "dynamic":
    expand, middle = Folded(draw(2, 8, 16), draw(16)), Folded(draw(2, 3, 3, 16), draw(16))
    gates = Gates(draw(2, 16, 4), draw(2, 3, 16), draw(2, 5, 16))
  if kind == "mixture":
    shares = jax.nn.softmax(draw(2, 3))
    expand = Folded(draw(3, 8, 16), draw(16), shares, draw(16))
    middle = Folded(draw(3, 3, 3, 16), draw(16), shares, draw(16))
  return x, expand, middle, gates


@pytest.mark.parametrize("kind", ["static", "no expansion", "dynamic", "mixture"])
def test_expand_depthwise(draw, kind):
  operands = halves(draw, kind)

  def run(x, expand, middle, gates, kernels):
    return fused.expand_depthwise(
      x, expand, middle, activation="hardswish", stride=2, gates=gates, kernels=kernels
    )

  (y, mean), (quick_y, quick_mean) = both(run, *operands)
  x, expand, middle, gates = operands
  middle = middle.whole()
  if expand is not None:
    expand = expand.whole()
    x = ops.hardswish(ops.pointwise(x, expand.kernel) + ops.per_channel(expand.bias))
  want = ops.depthwise_convolution(x, middle.kernel, 2) + ops.per_channel(middle.bias)
  if gates.relu is None:
    want = ops.hardswish(want)
  else:
    slopes, intercepts = gates.relu[..., :2], gates.relu[..., 2:]
    lines = want[..., None] * slopes[:, None, None] + intercepts[:, None, None]
    want = lines.max(-1) * gates.frequency[:, :, None] * gates.time[:, None]
  for one, other in ((y, want), (quick_y, want), (mean, want.mean((1, 2))), (quick_mean, mean)):
    np.testing.assert_allclose(one, other, atol=NOISE * float(jnp.abs(want).max()))


def test_project_with_everything(draw):
  x, folded = draw(2, 6, 9, 16), Folded(draw(16, 8), draw(8))
  scale, residual = draw(2, 16), draw(2, 6, 9, 8)

  def run(x, folded, scale, residual, kernels):
    return fused.project(
      x, folded, scale=scale, residual=residual, activation="relu", kernels=kernels
    )

  want = jax.nn.relu((x * scale[:, None, None]) @ folded.kernel + folded.bias[None, None, None])
  for y in both(run, x, folded, scale, residual):
    np.testing.assert_allclose(y, want + residual, atol=NOISE * 10)


def test_first_and_last(draw):
  x, folded = draw(2, 8, 11), Folded(draw(3, 3, 8), draw(8))
  one, other = both(functools.partial(fused.first, activation="hardswish"), x, folded)
  want = ops.hardswish(ops.stem(x, folded.kernel) + ops.per_channel(folded.bias))
  np.testing.assert_allclose(one, want, atol=NOISE)
  np.testing.assert_allclose(other, want, atol=NOISE)
  wide = Folded(draw(8, 24), draw(24))
  for y, mean in both(functools.partial(fused.last, activation="hardswish"), want, wide):
    full = ops.hardswish(ops.pointwise(want, wide.kernel) + ops.per_channel(wide.bias))
    np.testing.assert_allclose(y, full, atol=NOISE)
    np.testing.assert_allclose(mean, full.mean((1, 2)), atol=NOISE)


def test_derivatives_of_the_quick_form_are_those_of_the_plain_one(draw):
  operands = halves(draw, "dynamic")

  def energy(operands, kernels):
    y, mean = fused.expand_depthwise(
      *operands[:3], activation="relu", stride=2, gates=operands[3], kernels=kernels
    )
    return jnp.sum(y**2) + jnp.sum(mean)

  plain, swift = both(jax.value_and_grad(energy), operands)
  for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(swift), strict=True):
    np.testing.assert_allclose(one, other, atol=2e-5 * float(jnp.abs(one).max()) + 1e-6)
  tangents = jax.tree.map(jnp.ones_like, operands)

  def forward(operands):
    return jax.jvp(functools.partial(energy, kernels="auto"), (operands,), (tangents,))

  value, slope = quick(forward)(operands)
  total = sum(float(jnp.sum(g)) for g in jax.tree.leaves(swift[1]))
  assert float(value) == pytest.approx(float(plain[0]), rel=1e-5)
  assert float(slope) == pytest.approx(total, rel=1e-4)


def test_under_vmap(draw):
  x, folded = draw(3, 2, 6, 9, 16), Folded(draw(16, 8), draw(8))
  for how in ("xla", "auto"):
    y = jax.vmap(lambda x, how=how: fused.project(x, folded, kernels=how))(x)
    want = jnp.stack([fused.project(clip, folded, kernels="xla") for clip in x])
    np.testing.assert_allclose(y, want, atol=NOISE)


def test_which_form_runs(draw):
  """C++ for float32 on a CPU alone, and only where it is allowed."""
  if not native.available():
    pytest.skip("needs the native kernels: a CPU backend and a C++17 compiler")
  x, folded = draw(1, 4, 4, 8), Folded(draw(8, 8), draw(8))

  def calls(x, kernels, platform="cpu"):
    run = jax.jit(functools.partial(fused.project, kernels=kernels))
    text = run.trace(x, folded).lower(lowering_platforms=(platform,)).as_text()
    return "custom_call" in text

  assert calls(x, "auto")
  assert calls(x, "native")
  assert not calls(x, "xla")
  assert not calls(x.astype(jnp.bfloat16), "auto")
  assert not calls(x, "auto", "cuda")
  traced = {
    how: str(jax.make_jaxpr(functools.partial(fused.project, kernels=how))(x, folded))
    for how in ("auto", "native")
  }
  assert ["dot_general" in traced[how] for how in ("auto", "native")] == [True, False]


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_dynamic_relu_and_its_gradient(draw, pieces):
  """Where two lines are equal the first one's slope counts, once: nothing is lost or doubled."""
  x, coefficients = draw(2, 3, 4, 5), draw(2, 5, 2 * pieces)
  lines = (
    np.asarray(x)[..., None] * np.asarray(coefficients)[:, None, None, :, :pieces]
    + np.asarray(coefficients)[:, None, None, :, pieces:]
  )
  np.testing.assert_allclose(fused.dynamic_relu(x, coefficients), lines.max(-1), atol=1e-6)
  slope = jax.grad(lambda x: fused.dynamic_relu(x, coefficients).sum())(x)
  chosen = np.take_along_axis(
    np.broadcast_to(np.asarray(coefficients)[:, None, None, :, :pieces], lines.shape),
    lines.argmax(-1)[..., None],
    -1,
  )[..., 0]
  np.testing.assert_allclose(slope, chosen, atol=1e-6)
  same = jnp.tile(jnp.asarray([0.5] * pieces + [0.0] * pieces)[None, None], (1, 1, 1))
  gradient = jax.grad(lambda x: fused.dynamic_relu(x, same).sum())(jnp.ones((1, 1, 1, 1)))
  assert float(gradient[0, 0, 0, 0]) == 0.5


def test_whole_works_mix_and_scale_into_the_kernel(draw):
  shares, scale = draw(2, 3), draw(5)
  folded = Folded(draw(3, 4, 5), draw(5), shares, scale)
  want = np.einsum("bn,ncd->bcd", np.float64(shares), folded.kernel) * np.asarray(scale)
  whole = folded.whole()
  np.testing.assert_allclose(whole.kernel, want, atol=NOISE * np.abs(want).max())
  assert whole.bias is folded.bias
  assert whole.mix is None
  assert whole.scale is None


@pytest.mark.parametrize("kind", ["static", "mixture"])
def test_project_and_last_scale_the_kernel_s_columns(draw, kind):
  x, shares = draw(2, 6, 9, 16), jax.nn.softmax(draw(2, 3))
  kernel = draw(16, 24) if kind == "static" else draw(3, 16, 24)
  folded = Folded(kernel, draw(24), shares if kind == "mixture" else None, draw(24))
  whole = folded.whole()
  want = ops.hardswish(ops.pointwise(x, whole.kernel) + ops.per_channel(whole.bias))
  noise = NOISE * float(jnp.abs(want).max())
  for y in both(functools.partial(fused.project, activation="hardswish"), x, folded):
    np.testing.assert_allclose(y, want, atol=noise)
  for _, mean in both(functools.partial(fused.last, activation="hardswish"), x, folded):
    np.testing.assert_allclose(mean, want.mean((1, 2)), atol=noise)


def test_axis_means_and_their_gradient(draw):
  x = draw(2, 9, 7, 24)
  weights = draw(2, 16, 24)
  want = np.concatenate([np.asarray(x).mean(2), np.asarray(x).mean(1)], 1)
  slopes = weights[:, :9, None] / 7 + weights[:, None, 9:] / 9
  for kernels in ("xla", "auto"):
    means = functools.partial(fused.axis_means, kernels=kernels)
    np.testing.assert_allclose(means(x), want, atol=1e-6)
    got = jax.grad(lambda x, means=means: jnp.sum(means(x) * weights))(x)
    np.testing.assert_allclose(got, slopes, atol=1e-6)


def test_an_empty_batch_goes_the_plain_way(draw):
  """The C++ forms share the work by the batch, and would divide by it."""
  x, folded = draw(1, 4, 4, 8)[:0], Folded(draw(8, 8), draw(8))
  assert fused.project(x, folded).shape == (0, 4, 4, 8)
  assert fused.axis_means(x).shape == (0, 8, 8)
