"""What the kernels compute, written plainly in NumPy and float64."""

import numpy as np


def activate(x, name):
  if name == "relu":
    return np.maximum(x, 0)
  return x * np.clip(x + 3, 0, 6) / 6 if name == "hardswish" else x


def per_clip(kernel, clips, rank):
  """A kernel for every clip."""
  kernel = np.asarray(kernel, np.float64)
  return kernel if kernel.ndim == rank + 1 else np.broadcast_to(kernel, (clips, *kernel.shape))


def depthwise(x, kernel, stride, dilation):
  x = np.asarray(x, np.float64)
  kernel = per_clip(kernel, len(x), 3)
  taps = kernel.shape[1]
  padding = dilation * ((taps - 1) // 2)
  x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  span = dilation * (taps - 1)
  windows = x[:, : x.shape[1] - span : stride, : x.shape[2] - span : stride]
  y = np.zeros(windows.shape)
  for i in range(taps):
    for j in range(taps):
      part = x[:, i * dilation :, j * dilation :][:, ::stride, ::stride]
      y += part[:, : y.shape[1], : y.shape[2]] * kernel[:, i, j][:, None, None]
  return y


def pointwise(x, kernel):
  kernel = per_clip(kernel, len(x), 2)
  return np.einsum("bftc,bcd->bftd", np.asarray(x, np.float64), kernel)


NOISE = 2e-6  # float32 sums of up to 960 terms, relative to the largest value


def close(got, want, noise=NOISE):
  """Equal but for float32's noise."""
  assert got.shape == want.shape
  np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=noise * np.abs(want).max() + 1e-30)
