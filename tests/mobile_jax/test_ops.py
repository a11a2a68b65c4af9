"""The convolutions: each form gives the same numbers and the same derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax import ops
from tests.mobile_jax.fixtures import quick

NOISE = 1e-5


@pytest.fixture
def draw():
  rng = np.random.default_rng(5)
  return lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)


def by_hand(x, kernel, stride, dilation):
  """The depthwise sum itself, in float64; a kernel [b, k, k, c] is one set per clip."""
  x = np.asarray(x, np.float64)
  size = kernel.shape[-2]
  kernel = np.broadcast_to(np.asarray(kernel, np.float64), (len(x), size, size, x.shape[-1]))
  pad = dilation * (size - 1) // 2
  padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  reach = dilation * (size - 1) + 1
  rows = range(0, padded.shape[1] - reach + 1, stride)
  columns = range(0, padded.shape[2] - reach + 1, stride)
  out = np.zeros((len(x), len(rows), len(columns), x.shape[-1]))
  for i, row in enumerate(rows):
    for j, column in enumerate(columns):
      window = padded[:, row : row + reach : dilation, column : column + reach : dilation]
      out[:, i, j] = (window * kernel).sum((1, 2))
  return out


# f, t, kernel, stride, dilation
CASES = [
  (8, 10, 3, 1, 1),
  (8, 10, 3, 2, 1),
  (7, 9, 3, 2, 1),
  (7, 9, 5, 1, 1),
  (6, 11, 5, 2, 1),
  (5, 8, 5, 1, 2),
  (1, 1, 5, 2, 1),
]


@pytest.mark.parametrize("per_clip", [False, True])
@pytest.mark.parametrize(("f", "t", "size", "stride", "dilation"), CASES)
def test_depthwise_forms_agree(draw, f, t, size, stride, dilation, per_clip):
  """Taps and grouped convolution: values, and derivatives along random directions."""
  x, kernel = draw(2, f, t, 3), draw(*((2,) if per_clip else ()), size, size, 3)
  want = by_hand(x, kernel, stride, dilation)
  weight = draw(*want.shape)
  found = []
  for form in (ops.depthwise_taps, ops.depthwise_convolution):

    def run(x, kernel, form=form):
      y, pullback = jax.vjp(lambda x, kernel: form(x, kernel, stride, dilation), x, kernel)
      return y, pullback(weight)

    y, gradients = quick(run)(x, kernel)
    np.testing.assert_allclose(y, want, atol=NOISE)
    found.append(gradients)
  for one, other in zip(*found, strict=True):
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, atol=1e-4)
  # The map is bilinear: <w, conv(x, k)> = <dx, x> = <dk, k>.
  total = float((np.asarray(weight, np.float64) * want).sum())
  for gradient, operand in zip(found[0], (x, kernel), strict=True):
    assert float(jnp.vdot(gradient, operand)) == pytest.approx(total, abs=1e-2)


@pytest.mark.parametrize("form", [ops.depthwise, ops.depthwise_taps, ops.depthwise_convolution])
def test_depthwise_in_bfloat16(draw, form):
  x, kernel = draw(1, 6, 7, 4).astype(jnp.bfloat16), draw(3, 3, 4)
  y = form(x, kernel.astype(jnp.bfloat16))
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(y.astype(jnp.float32), by_hand(x, kernel, 1, 1), atol=0.15)


def test_depthwise_under_jit_and_vmap(draw):
  x, kernel = draw(3, 2, 5, 9, 4), draw(3, 3, 4)
  y = jax.jit(jax.vmap(lambda x: ops.depthwise(x, kernel, 2)))(x)
  want = np.stack([by_hand(clip, kernel, 2, 1) for clip in x])
  np.testing.assert_allclose(y, want, atol=NOISE)


@pytest.mark.parametrize(("f", "t"), [(8, 10), (7, 9), (1, 2)])
def test_stem(draw, f, t):
  """Both forms: the one that runs here, and the convolution that other backends lower to."""
  x, kernel = draw(2, f, t), draw(3, 3, 4)
  want = by_hand(np.repeat(np.asarray(x)[..., None], 4, 3), kernel, 2, 1)
  np.testing.assert_allclose(ops.stem(x, kernel), want, atol=NOISE)
  convolved = jax.lax.conv_general_dilated(
    x[..., None],
    kernel[:, :, None],
    (2, 2),
    ((1, 1), (1, 1)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  np.testing.assert_allclose(convolved, want, atol=NOISE)


def test_other_backends_get_a_convolution(draw):
  """The form is chosen when a backend is lowered to, not where the program is written."""
  x, kernel = draw(2, 8, 10, 4), draw(3, 3, 4)
  for function, operands in ((ops.depthwise, (x, kernel)), (ops.stem, (x[..., 0], kernel))):
    traced = jax.jit(function).trace(*operands)
    assert "convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    for platform in ("cuda", "tpu"):
      assert "convolution" in traced.lower(lowering_platforms=(platform,)).as_text()


def test_pointwise(draw):
  x, one, each = draw(2, 3, 4, 5), draw(5, 6), draw(2, 5, 6)
  np.testing.assert_allclose(ops.pointwise(x, one), np.einsum("bftc,cd->bftd", x, one), atol=NOISE)
  want = np.einsum("bftc,bcd->bftd", x, each)
  np.testing.assert_allclose(ops.pointwise(x, each), want, atol=NOISE)
  assert ops.pointwise(x.astype(jnp.bfloat16), one).dtype == jnp.bfloat16


def test_hardswish():
  x = jnp.asarray([-4.0, -3.0, -1.5, 0.0, 1.0, 3.0, 5.0])
  want = [0, 0, -1.5 * 1.5 / 6, 0, 4 / 6, 3, 5]
  np.testing.assert_allclose(ops.hardswish(x), want, atol=1e-6)
