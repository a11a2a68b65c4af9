"""The kernels with gradients against NumPy and against plain JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax.native.build import LIBRARY
from tests.mobile_jax.native import reference
from tests.mobile_jax.native.reference import close


@pytest.mark.parametrize(
  ("f", "t", "c", "d"),
  [(64, 130, 16, 64), (32, 50, 64, 24), (10, 7, 72, 40), (4, 32, 960, 160), (3, 5, 13, 5)],
)
@pytest.mark.parametrize("per_clip", [False, True])
def test_multiply(kernels, draw, f, t, c, d, per_clip):
  """The product is bilinear, so each gradient is a product too."""
  x, kernel = draw(2, f, t, c), draw(*((2,) if per_clip else ()), c, d)
  y, pullback = jax.vjp(kernels.multiply, x, kernel)
  close(y, reference.pointwise(x, kernel))
  dy = draw(*y.shape)
  dx, dkernel = pullback(jnp.asarray(dy))
  close(dx, reference.pointwise(dy, np.swapaxes(kernel, -1, -2)))
  want = np.einsum("bftc,bftd->bcd", x.astype(np.float64), dy)
  close(dkernel, want if per_clip else want.sum(0), 1e-5)


@pytest.mark.parametrize(("f", "t", "c"), [(128, 100, 16), (10, 7, 8), (9, 16, 40), (1, 1, 24)])
def test_stem_convolution(kernels, draw, f, t, c):
  x, kernel = draw(2, f, t), draw(3, 3, c)
  y, pullback = jax.vjp(kernels.stem_convolution, x, kernel)
  wide = np.repeat(x[..., None], c, -1)
  close(y, reference.depthwise(wide, kernel, 2, 1))
  dy = draw(*y.shape)
  dx, dkernel = pullback(jnp.asarray(dy))
  padded = np.pad(x, ((0, 0), (1, 2), (1, 2))).astype(np.float64)
  want_dx, want_dkernel = np.zeros(padded.shape), np.zeros(kernel.shape)
  for i in range(3):
    for j in range(3):
      rows = slice(i, i + 2 * y.shape[1] - 1, 2), slice(j, j + 2 * y.shape[2] - 1, 2)
      want_dx[:, *rows] += dy.astype(np.float64) @ kernel[i, j]
      want_dkernel[i, j] = (padded[:, *rows][..., None] * dy).sum((0, 1, 2))
  close(dx, want_dx[:, 1 : f + 1, 1 : t + 1])
  close(dkernel, want_dkernel, 1e-5)


def test_gradients_stay_float32_where_float64_is_the_default(kernels, draw):
  """Every kernel with gradients, traced as under `jax_enable_x64`."""
  x, c = draw(2, 8, 9, 16), draw(16)
  with jax.enable_x64(True):
    cases = [
      (kernels.stem_convolution, (x[..., 0], draw(3, 3, 16))),
      (kernels.multiply, (x, draw(16, 24))),
      (kernels.depthwise, (x, draw(3, 3, 16))),
      (lambda *a: kernels.normalise(*a, 1e-3, "relu")[0], (x, c, c)),
      (lambda *a: kernels.normalised_depthwise(*a, 1e-3, "relu")[0], (x, c, c, draw(3, 3, 16))),
    ]
    for function, operands in cases:
      y, pullback = jax.vjp(function, *operands)
      assert {a.dtype.name for a in (y, *pullback(jnp.ones_like(y)))} == {"float32"}


@pytest.mark.parametrize("name", ["multiply", "pointwise"])
def test_a_derivative_that_is_not_there_names_the_way_out(kernels, name):
  """Of a gradient, and of an inference kernel."""
  x, kernel = jnp.ones((1, 2, 3, 8)), jnp.ones((8, 8))

  def once(x):
    y = kernels.multiply(x, kernel) if name == "multiply" else kernels.pointwise(x, kernel, None)
    return jnp.sum(y * y)

  target = once if name == "pointwise" else lambda x: jnp.sum(jax.grad(once)(x))
  with pytest.raises(NotImplementedError) as problem:
    jax.grad(target)(x)
  message = str(problem.value)
  assert message.startswith("mobile_pointwise has no derivative")
  assert "kernels='xla'" in message
  assert f"{LIBRARY.switch}=0" in message
  assert "\n" not in message


def plain(x, scale, bias, eps, activation):
  """The same in NumPy and float64, with the gradient that follows from a weight of every output."""
  axes = tuple(range(x.ndim - 1))
  x = x.astype(np.float64)
  mean, var = x.mean(axes), x.var(axes)
  n = (x - mean) / np.sqrt(var + eps) * scale + bias
  return reference.activate(n, activation), mean, var, n


SLOPES = {
  "none": np.ones_like,
  "relu": lambda n: (n > 0).astype(float),
  "hardswish": lambda n: np.where(n <= -3, 0, np.where(n >= 3, 1, (2 * n + 3) / 6)),
}


@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize(
  "shape", [(2, 64, 130, 16), (1, 9, 7, 24), (3, 4, 32, 960), (2, 3, 1, 5), (7, 40), (5, 1, 2, 1)]
)
def test_normalise(kernels, draw, shape, activation):
  c, eps, axes = shape[-1], 1e-3, tuple(range(len(shape) - 1))
  # Means far from zero beside small deviations: sums of squares alone would lose the variance.
  x = draw(*shape) * 0.1 + 10 * draw(c)
  scale, bias, dy = 1 + draw(c), draw(c), draw(*shape)

  def run(x, scale, bias):
    return kernels.normalise(x, scale, bias, eps, activation)

  (y, mean, var), pullback = jax.vjp(run, x, scale, bias)
  want, want_mean, want_var, n = plain(x, scale, bias, eps, activation)
  close(mean, want_mean)
  # Of numbers around 30 the last place is 2e-6, beside deviations of 0.1.
  close(var, want_var, 1e-4)
  close(y, want, 1e-4)
  dx, dscale, dbias = pullback((jnp.asarray(dy), jnp.zeros(c), jnp.zeros(c)))
  g = dy * SLOPES[activation](n)
  unit = (x.astype(np.float64) - want_mean) / np.sqrt(want_var + eps)
  tilt = unit * (g * unit).mean(axes)
  want_dx = scale / np.sqrt(want_var + eps) * (g - g.mean(axes) - tilt)
  # A value within rounding of a kink may stand on either side of it.
  sure = np.ones(shape, bool) if activation == "none" else np.abs(np.abs(n) % 3) > 1e-3
  assert sure.mean() > 0.98
  scale_of = np.abs(want_dx).max() + 1e-30
  assert np.abs((np.asarray(dx) - want_dx)[sure]).max(initial=0) <= 3e-4 * scale_of
  places = x.size // c
  close(dscale, (g * unit).sum(axes), 3e-4)
  close(dbias, g.sum(axes), 3e-4 if places < 1000 else 1e-3)


@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize(
  ("f", "t", "k", "stride", "dilation", "c"),
  [(16, 125, 3, 1, 1, 72), (33, 64, 3, 2, 1, 16), (8, 63, 5, 2, 1, 40), (10, 7, 3, 1, 2, 13)],
)
@pytest.mark.parametrize("per_clip", [False, True])
def test_normalised_depthwise(
  kernels,
  draw,
  f,
  t,
  k,
  stride,
  dilation,
  c,
  activation,
  per_clip,
):
  """The two kernels one after the other: the zeros around the map stay zeros in both."""
  x, kernel = draw(2, f, t, c) + 2 * draw(c), draw(*((2,) if per_clip else ()), k, k, c)
  scale, bias = 1 + draw(c), draw(c)

  def apart(x, scale, bias, kernel):
    y, mean, var = kernels.normalise(x, scale, bias, 1e-3, activation)
    return kernels.depthwise(y, kernel, stride, dilation), mean, var

  def together(*args):
    return kernels.normalised_depthwise(*args, 1e-3, activation, stride, dilation)

  want, pull_apart = jax.vjp(apart, x, scale, bias, kernel)
  got, pull_together = jax.vjp(together, x, scale, bias, kernel)
  for one, other in zip(got, want, strict=True):
    close(one, np.asarray(other))
  dy = (jnp.asarray(draw(*want[0].shape)), jnp.zeros(c), jnp.zeros(c))
  for one, other in zip(pull_together(dy), pull_apart(dy), strict=True):
    close(one, np.asarray(other), 1e-5)


def test_statistics_pass_no_gradient(kernels, draw):
  x, ones = jnp.asarray(draw(2, 3, 4, 8)), jnp.ones(8)

  def total(x):
    _, mean, var = kernels.normalise(x, ones, ones, 1e-3)
    return jnp.sum(mean) + jnp.sum(var)

  np.testing.assert_array_equal(jax.grad(total)(x), jnp.zeros_like(x))


def test_one_row_and_constant_maps_stay_finite(kernels):
  """The deviation is zero: the output is the bias, and no gradient blows up."""
  for x in (jnp.full((1, 1, 1, 16), 7.0), jnp.full((2, 8, 9, 16), -3.0)):
    y, pullback = jax.vjp(lambda x: kernels.normalise(x, jnp.ones(16), jnp.ones(16), 1e-3)[0], x)
    np.testing.assert_allclose(y, np.ones(x.shape), atol=1e-6)
    (dx,) = pullback(jnp.ones_like(y))
    np.testing.assert_allclose(dx, np.zeros(x.shape), atol=1e-5)
