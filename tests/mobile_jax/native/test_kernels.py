"""The kernels against NumPy, over the sizes where vectors, tiles and windows have ragged ends."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.mobile_jax.native import reference
from tests.mobile_jax.native.reference import close

GEOMETRY = [  # f, t, k, stride, dilation, c, e
  (64, 130, 3, 1, 1, 16, 72),
  (64, 130, 3, 2, 1, 16, 64),
  (16, 125, 5, 1, 1, 40, 120),
  (32, 250, 5, 2, 1, 24, 8),
  (8, 63, 3, 1, 1, 80, 184),
  (8, 63, 5, 2, 1, 8, 24),
  (4, 32, 5, 1, 2, 8, 40),
  (10, 7, 3, 2, 1, 24, 72),
  (10, 7, 7, 3, 2, 5, 13),
  (1, 1, 5, 1, 1, 8, 16),
]


@pytest.mark.parametrize(("f", "t", "k", "stride", "dilation", "c", "e"), GEOMETRY)
@pytest.mark.parametrize("per_clip", [False, True])
def test_expand_depthwise(kernels, draw, f, t, k, stride, dilation, c, e, per_clip):
  clips = (2,) if per_clip else ()
  x, expand, first = draw(2, f, t, c), draw(*clips, c, e), draw(e)
  taps, second = draw(*clips, k, k, e), draw(e)
  y, pooled = kernels.expand_depthwise(
    x, expand, first, taps, second,
    activation="hardswish", depthwise_activation="relu", stride=stride, dilation=dilation,
  )  # fmt: skip
  h = reference.activate(reference.pointwise(x, expand) + first, "hardswish")
  want = reference.activate(reference.depthwise(h, taps, stride, dilation) + second, "relu")
  close(y, want)
  close(pooled, want.mean((1, 2)))


@pytest.mark.parametrize(("stride", "c"), [(1, 16), (2, 40)])
def test_no_expansion_reads_the_input_itself(kernels, draw, stride, c):
  x, taps, bias = draw(1, 20, 70, c), draw(3, 3, c), draw(c)
  y, _ = kernels.expand_depthwise(x, None, None, taps, bias, activation="relu", stride=stride)
  close(y, reference.activate(reference.depthwise(x, taps, stride, 1) + bias, "relu"))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("lines", [1, 2, 3])
def test_dynamic_block(kernels, draw, stride, lines):
  """A mixture of kernels, dynamic ReLU and both gates of coordinate attention."""
  x, expand, mix, taps = draw(2, 9, 33, 24), draw(4, 24, 72), draw(2, 4), draw(2, 3, 3, 72)
  scale = draw(72)
  first, second, dyrelu = draw(72), draw(72), draw(2, 72, 2 * lines)
  mixed = np.einsum("bn,nce->bce", mix.astype(np.float64), expand) * scale
  h = reference.activate(reference.pointwise(x, mixed) + first, "relu")
  h = reference.depthwise(h, taps, stride, 1) + second
  gate_f, gate_t = draw(2, h.shape[1], 72), draw(2, h.shape[2], 72)
  slopes, intercepts = dyrelu[..., :lines], dyrelu[..., lines:]
  want = (h[..., None] * slopes[:, None, None] + intercepts[:, None, None]).max(-1)
  want = want * gate_f[:, :, None] * gate_t[:, None]
  y, pooled = kernels.expand_depthwise(
    x, expand, first, taps, second, activation="relu", stride=stride,
    expand_mix=mix, expand_scale=scale, dyrelu=dyrelu, gate_f=gate_f, gate_t=gate_t,
  )  # fmt: skip
  close(y, want)
  close(pooled, want.mean((1, 2)))


@pytest.mark.parametrize(
  ("f", "t", "c", "d"),
  [(64, 500, 16, 16), (32, 250, 72, 24), (10, 7, 72, 40), (4, 32, 960, 160), (3, 5, 13, 5)],
)
@pytest.mark.parametrize("kind", ["one", "per clip", "mixture"])
def test_pointwise(kernels, draw, f, t, c, d, kind):
  shape = {"one": (c, d), "per clip": (2, c, d), "mixture": (3, c, d)}[kind]
  x, kernel, bias, scale = draw(2, f, t, c), draw(*shape), draw(d), draw(2, c)
  residual, mix = draw(2, f, t, d), draw(2, 3) if kind == "mixture" else None
  full = kernel if mix is None else np.einsum("bn,ncd->bcd", mix.astype(np.float64), kernel)
  plain = reference.pointwise(x, full) + bias
  close(kernels.pointwise(x, kernel, bias, mix=mix), plain)
  columns = draw(d)
  scaled = kernels.pointwise(x, kernel, bias, mix=mix, kernel_scale=columns)
  close(scaled, reference.pointwise(x, full * columns.astype(np.float64)) + bias)
  gated = reference.pointwise(x * scale[:, None, None].astype(np.float64), full) + bias
  want = reference.activate(gated, "hardswish")
  arguments = {"scale": scale, "mix": mix, "activation": "hardswish"}
  close(kernels.pointwise_mean(x, kernel, bias, **arguments), want.mean((1, 2)))
  y, mean = kernels.pointwise(x, kernel, bias, residual=residual, pool=True, **arguments)
  close(y, want + residual)
  close(mean, (want + residual).mean((1, 2)))


@pytest.mark.parametrize(("f", "t", "c"), [(128, 100, 16), (10, 7, 8), (9, 16, 40), (1, 1, 24)])
def test_stem(kernels, draw, f, t, c):
  x, kernel, bias = draw(2, f, t), draw(3, 3, c), draw(c)
  h = np.repeat(x[..., None], c, -1)
  want = reference.activate(reference.depthwise(h, kernel, 2, 1) + bias, "hardswish")
  close(kernels.stem(x, kernel, bias, activation="hardswish"), want)


@pytest.mark.parametrize(
  ("b", "f", "t", "c"),
  [(1, 64, 500, 16), (3, 32, 50, 24), (8, 4, 32, 160), (2, 10, 7, 13), (20, 1, 1, 5)],
)
def test_axis_means(kernels, draw, b, f, t, c):
  x = draw(b, f, t, c)
  wide = x.astype(np.float64)
  want = np.concatenate([wide.mean(2), wide.mean(1)], 1)
  # Relative to what is summed: means of many numbers around 0 are small themselves.
  np.testing.assert_allclose(kernels.axis_means(x), want, rtol=0, atol=2e-7 * np.abs(x).max())


@pytest.mark.parametrize(("b", "c", "d"), [(1, 960, 240), (8, 240, 960), (3, 1, 5), (2, 1281, 527)])
@pytest.mark.parametrize("activation", ["none", "relu", "hardswish", "sigmoid"])
def test_dense(kernels, draw, b, c, d, activation):
  x, kernel, bias = draw(b, c), draw(c, d), draw(d)
  want = x.astype(np.float64) @ kernel + bias
  if activation == "sigmoid":
    want = 1 / (1 + np.exp(-want))
  else:
    want = reference.activate(want, activation)
  close(kernels.dense(x, kernel, bias, activation=activation), want, 5e-6)


@pytest.mark.parametrize(
  ("f", "t", "k", "stride", "dilation", "c"),
  [
    (16, 125, 3, 1, 1, 72),
    (33, 64, 3, 2, 1, 16),
    (8, 63, 5, 2, 1, 40),
    (4, 32, 5, 1, 2, 24),
    (10, 7, 7, 3, 2, 13),
    (1, 1, 3, 1, 1, 8),
  ],
)
@pytest.mark.parametrize("per_clip", [False, True])
def test_depthwise_gradients(kernels, draw, f, t, k, stride, dilation, c, per_clip):
  """Against the transposed sums: <dy, conv(x, w)> is bilinear, so each gradient is exact."""
  x, kernel = draw(2, f, t, c), draw(*((2,) if per_clip else ()), k, k, c)
  y, pullback = jax.vjp(lambda x, w: kernels.depthwise(x, w, stride, dilation), x, kernel)
  close(y, reference.depthwise(x, kernel, stride, dilation))
  dy = draw(*y.shape)
  dx, dkernel = pullback(jnp.asarray(dy))
  padding = dilation * ((k - 1) // 2)
  padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0))).astype(np.float64)
  full = reference.per_clip(kernel, 2, 3)
  want_dx, want_dkernel = np.zeros(padded.shape), np.zeros(full.shape)
  for i in range(k):
    for j in range(k):
      rows = slice(i * dilation, i * dilation + stride * (y.shape[1] - 1) + 1, stride)
      columns = slice(j * dilation, j * dilation + stride * (y.shape[2] - 1) + 1, stride)
      want_dx[:, rows, columns] += dy * full[:, i, j][:, None, None]
      want_dkernel[:, i, j] = (dy * padded[:, rows, columns]).sum((1, 2))
  close(dx, want_dx[:, padding : padding + f, padding : padding + t])
  close(dkernel, want_dkernel if per_clip else want_dkernel.sum(0), 1e-5)


def test_jit_and_vmap(kernels, draw):
  x, kernel = draw(3, 2, 5, 9, 8), draw(3, 3, 8)
  got = jax.jit(jax.vmap(lambda x: kernels.depthwise(x, kernel)))(x)
  close(got, np.stack([reference.depthwise(clip, kernel, 1, 1) for clip in x]))


def test_nan_and_infinity_pass_through(kernels, draw):
  x, kernel = draw(1, 4, 9, 8), np.ones((8, 8), np.float32)
  x[0, 1, 2, 3] = np.nan
  for activation in ("relu", "hardswish", "none"):
    y = np.asarray(kernels.pointwise(x, kernel, None, activation=activation))
    assert np.isnan(y[0, 1, 2]).all()
    assert np.isfinite(np.delete(y.reshape(36, 8), 11, 0)).all()


ONE_THREAD = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, numpy as np
from tests.mobile_jax.native import test_kernels
np.savez(sys.argv[1], *test_kernels.several_results())
"""


def several_results() -> list[np.ndarray]:
  """Results whose sums are cut into tiles, blocks and halves."""
  from mobile_jax import native

  rng = np.random.default_rng(5)

  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  x, expand, taps = draw(1, 32, 250, 24), draw(24, 72), draw(5, 5, 72)
  y, pooled = native.expand_depthwise(x, expand, None, taps, None, activation="relu", stride=2)
  wide = draw(1, 4, 32, 960)
  narrow = native.pointwise(wide, draw(960, 160), None)
  mean = native.pointwise_mean(y, draw(72, 40), None)
  row = native.dense(pooled, draw(72, 1280), None)
  _, pullback = jax.vjp(lambda w: native.depthwise(x, w), draw(3, 3, 24))
  _, of_product = jax.vjp(lambda w: native.multiply(x, w), draw(24, 24))
  normed, of_norm = jax.vjp(lambda x: native.normalise(x, draw(24), draw(24), 1e-3)[0], x)
  gradients = (*pullback(x), *of_product(x), *of_norm(x))
  means = native.axis_means(x)
  return [np.asarray(a) for a in (y, pooled, narrow, mean, row, normed, means, *gradients)]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a processor mask")
def test_same_bits_with_one_thread(kernels, tmp_path):
  path = tmp_path / "one.npz"
  subprocess.run([sys.executable, "-c", ONE_THREAD, str(path)], check=True, timeout=120)
  with np.load(path) as one:
    for got, want in zip(several_results(), one.values(), strict=True):
      np.testing.assert_array_equal(got, want)


@pytest.mark.usefixtures("unchecked")
def test_refusals_name_the_operand(kernels, draw):
  x, taps = draw(2, 8, 8, 16), draw(3, 3, 16)
  with pytest.raises(ValueError, match="bias has shape"):
    kernels.pointwise(x, draw(16, 8), draw(9))
  with pytest.raises(ValueError, match="kernel has shape"):
    kernels.pointwise(x, draw(12, 8), None)
  with pytest.raises(ValueError, match="depthwise kernel has shape"):
    kernels.depthwise(x, draw(4, 4, 16))
  with pytest.raises(ValueError, match="'gelu' is unknown"):
    kernels.pointwise(x, draw(16, 8), None, activation="gelu")
  with pytest.raises(ValueError, match="dtype float16, want float32"):
    kernels.pointwise(x.astype(np.float16), draw(16, 8), None)
  with pytest.raises(ValueError, match=r"x of shape \(0, 8, 8, 16\) is empty"):
    kernels.axis_means(x[:0])
  with pytest.raises(ValueError, match="gate_t has shape"):
    kernels.expand_depthwise(
      x, None, None, taps, None, activation="none", stride=2, gate_t=draw(2, 8, 16)
    )
