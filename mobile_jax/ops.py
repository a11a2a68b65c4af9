"""The convolutions of these networks as pure functions, each in the form its backend runs best.

Maps are x[b, f, t, c]: batch, frequency, time, channels. Convolutions pad symmetrically with
dilation * (kernel - 1) // 2 on both sides, also at stride 2 (reference text, section 0), unless a
`padding` says otherwise; XLA's "SAME" pads on one side there and gives other numbers.

    form          where           why
    taps          CPU             XLA runs grouped convolutions on a CPU 10 to 50 times slower than
                                  k * k shifted products and sums
    convolution   GPU, TPU        their libraries have depthwise kernels
    products      everywhere      a 1x1 convolution is a matrix product
    C++ kernels   CPU, inference  `mobile_jax.native`: fused, nothing wide is written to memory
    C++ kernels   CPU, training   `mobile_jax.native.training`: with backward passes of their own

`kernels` of these functions is a configuration's: "auto" takes the C++ forms where there are some,
"native" too, in programs that no other device can run, "xla" leaves them out. The C++ forms of
training have no forward-mode derivative.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dasheng_jax.errors import ConfigError
from mobile_jax.config import Activation

# Of both axes, or (frequency, time).
Stride: TypeAlias = int | tuple[int, int]
# Zeros before and behind both axes; None for as many on either side as keep a map's size.
Padding: TypeAlias = tuple[int, int] | None

# True float32 products: GPUs and TPUs would round their inputs to 10 or 7 bits.
PRECISION = jax.lax.Precision.HIGHEST


def hardswish(x: jax.Array) -> jax.Array:
  """X * clip(x + 3, 0, 6) / 6."""
  return x * jnp.clip(x + 3.0, 0.0, 6.0) * (1.0 / 6.0)


ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
  "relu": jax.nn.relu,
  "hardswish": hardswish,
  # Selected by comparison: the slope is 0 at 6, as in PyTorch, and see `fused.dynamic_relu`.
  "relu6": lambda x: jnp.where(x >= 6.0, 6.0, jax.nn.relu(x)),
  "swish": jax.nn.silu,
  "none": lambda x: x,
}


def per_channel(x: jax.Array) -> jax.Array:
  """[c] or [b, c] with the axes of a map [b, f, t, c]."""
  return x[None, None, None] if x.ndim == 1 else x[:, None, None]


def has_native(x: jax.Array, kernels: str, activation: Activation = "none") -> bool:
  """True where the C++ forms are asked for, are there, and take this map and this activation."""
  if kernels == "native" and jax.default_backend() != "cpu":
    raise ConfigError(
      f"kernels 'native' is for CPUs, and this is a {jax.default_backend()}; take 'auto'"
    )
  if kernels == "xla" or x.dtype != jnp.float32 or x.size == 0:
    return False
  from mobile_jax import native

  return activation in native.ACTIVATIONS and native.available()


def pointwise(
  x: Float[Array, "*batch f t c"], kernel: Float[Array, "*per_clip c d"], kernels: str = "xla"
) -> Float[Array, "*batch f t d"]:
  """1x1 convolution; a kernel [b, c, d] holds one matrix per clip."""
  kernel = kernel.astype(x.dtype)
  if x.ndim == 4 and has_native(x, kernels):
    from mobile_jax import native

    return native.multiply(x, kernel)
  if kernel.ndim == 2:
    return jnp.einsum("...c,cd->...d", x, kernel, precision=PRECISION)
  return jnp.einsum("bftc,bcd->bftd", x, kernel, precision=PRECISION)


def depthwise(
  x: Float[Array, "b f t c"],
  kernel: Float[Array, "*per_clip k k c"],
  stride: Stride = 1,
  dilation: int = 1,
  kernels: str = "xla",
  padding: Padding = None,
) -> Float[Array, "b f2 t2 c"]:
  """One k x k filter per channel; a kernel [b, k, k, c] holds one set of filters per clip.

  stride: of both axes, or (frequency, time). The C++ forms pad symmetrically alone.
  """
  kernel = kernel.astype(x.dtype)
  if padding is None and has_native(x, kernels):
    from mobile_jax import native

    low, skip = common_stride(stride)
    return native.depthwise(x, kernel, low, dilation)[:, :: skip[0], :: skip[1]]
  static: dict[str, Any] = {"stride": stride, "dilation": dilation, "padding": padding}
  taps = functools.partial(depthwise_taps, **static)
  convolution = functools.partial(depthwise_convolution, **static)
  return jax.lax.platform_dependent(x, kernel, cpu=taps, default=convolution)


def zeros_around(size: int, dilation: int = 1, padding: Padding = None) -> tuple[int, int]:
  """(before, behind) an axis under a kernel of `size` taps."""
  pad = (size - 1) // 2 * dilation
  return (pad, pad) if padding is None else padding


def depthwise_taps(
  x: Float[Array, "b f t #c"],
  kernel: Float[Array, "*per_clip k k c"],
  stride: Stride = 1,
  dilation: int = 1,
  padding: Padding = None,
) -> Float[Array, "b f2 t2 c"]:
  """As k * k shifted copies of the map, each times its tap: one fused loop on a CPU."""
  size = kernel.shape[-2]
  pad = zeros_around(size, dilation, padding)
  terms = [
    cells * per_channel(kernel[..., row, column, :])
    for row, column, cells in shifted(x, size, pad, both_strides(stride), dilation)
  ]
  return functools.reduce(jnp.add, terms)


def average_pool(x: Float[Array, "b f t c"], stride: Stride) -> Float[Array, "b f2 t2 c"]:
  """The sum of 3 x 3 cells, zeros all around, by 9 wherever it stands."""
  cells = functools.partial(average_pool_cells, stride=stride)
  windows = functools.partial(average_pool_windows, stride=stride)
  return jax.lax.platform_dependent(x, cpu=cells, default=windows)


def average_pool_cells(x: Float[Array, "b f t c"], stride: Stride) -> Float[Array, "b f2 t2 c"]:
  """As nine shifted copies."""
  cells = [cell for _, _, cell in shifted(x, 3, (1, 1), both_strides(stride), 1)]
  return functools.reduce(jnp.add, cells) * (1 / 9)


def average_pool_windows(x: Float[Array, "b f t c"], stride: Stride) -> Float[Array, "b f2 t2 c"]:
  """As XLA's windows."""
  around = ((0, 0), (1, 1), (1, 1), (0, 0))
  window, strides = (1, 3, 3, 1), (1, *both_strides(stride), 1)
  zero = np.zeros((), x.dtype)
  return jax.lax.reduce_window(x, zero, jax.lax.add, window, strides, around) * (1 / 9)


def shifted(
  x: jax.Array, size: int, pad: tuple[int, int], strides: tuple[int, int], dilation: int
) -> Iterator[tuple[int, int, jax.Array]]:
  """(row, column, what it sees of the padded map) of every tap of a size x size window."""
  span = dilation * (size - 1) + 1
  f, t = (
    (n + sum(pad) - span) // stride + 1 for n, stride in zip(x.shape[1:3], strides, strict=True)
  )
  padded = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
  for row in range(size):
    for column in range(size):
      top, left = row * dilation, column * dilation
      down = slice(top, top + (f - 1) * strides[0] + 1, strides[0])
      along = slice(left, left + (t - 1) * strides[1] + 1, strides[1])
      yield row, column, padded[:, down, along]


def both_strides(stride: Stride) -> tuple[int, int]:
  """(frequency, time)."""
  return (stride, stride) if isinstance(stride, int) else stride


def common_stride(stride: Stride) -> tuple[int, tuple[int, int]]:
  """(stride of both axes that the C++ forms know, every how many of their results to keep).

  The one block that needs this works on a small map.
  """
  f, t = both_strides(stride)
  low = min(f, t)
  if f % low or t % low:
    raise ValueError(f"stride {stride}: one of the two must be a multiple of the other")
  return low, (f // low, t // low)


def depthwise_convolution(
  x: Float[Array, "b f t c"],
  kernel: Float[Array, "*per_clip k k c"],
  stride: Stride = 1,
  dilation: int = 1,
  padding: Padding = None,
) -> Float[Array, "b f2 t2 c"]:
  """As XLA's grouped convolution; filters per clip become groups of their own."""
  batch, f, t, channels = x.shape
  per_clip = kernel.ndim == 4
  if per_clip:
    x = x.transpose(1, 2, 0, 3).reshape(1, f, t, batch * channels)
    kernel = kernel.transpose(1, 2, 0, 3).reshape(*kernel.shape[1:3], batch * channels)
  pad = zeros_around(kernel.shape[0], dilation, padding)
  out = jax.lax.conv_general_dilated(
    x,
    kernel[:, :, None],
    both_strides(stride),
    (pad, pad),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=kernel.shape[-1],
    precision=PRECISION,
  )
  if per_clip:
    out = out.reshape(*out.shape[1:3], batch, channels).transpose(2, 0, 1, 3)
  return out


def dense(
  x: Float[Array, "b f t c"],
  kernel: Float[Array, "k k g d"],
  stride: int = 1,
  padding: int = 0,
  groups: int = 1,
) -> Float[Array, "b f2 t2 d"]:
  """Every output channel from all input channels of its group, zeros all around.

  XLA runs grouped convolutions on a CPU slowly: there, one convolution for each group.
  """
  kernel = kernel.astype(x.dtype)
  if groups == 1:
    return _convolve(x, kernel, stride, padding)
  static: dict[str, Any] = {"stride": stride, "padding": padding, "groups": groups}
  apart = functools.partial(dense_apart, **static)
  together = functools.partial(_convolve, **static)
  return jax.lax.platform_dependent(x, kernel, cpu=apart, default=together)


def dense_apart(
  x: Float[Array, "b f t c"],
  kernel: Float[Array, "k k g d"],
  stride: int,
  padding: int,
  groups: int,
) -> Float[Array, "b f2 t2 d"]:
  """As one convolution for each group."""
  parts = zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True)
  return jnp.concatenate([_convolve(one, its, stride, padding) for one, its in parts], axis=-1)


def _convolve(
  x: jax.Array, kernel: jax.Array, stride: int, padding: int, groups: int = 1
) -> jax.Array:
  if kernel.shape[:2] == (1, 1) and groups == stride == 1 and not padding:
    return pointwise(x, kernel[0, 0])
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    ((padding, padding), (padding, padding)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
    precision=PRECISION,
  )


def max_pool(x: Float[Array, "b f t c"], size: tuple[int, int]) -> Float[Array, "b f2 t2 c"]:
  """The greatest of every `size` cells; what does not fill a window at the end is dropped."""
  cells = functools.partial(max_pool_cells, size=size)
  windows = functools.partial(max_pool_windows, size=size)
  return jax.lax.platform_dependent(x, cpu=cells, default=windows)


def max_pool_cells(x: Float[Array, "b f t c"], size: tuple[int, int]) -> Float[Array, "b f2 t2 c"]:
  """By comparison of strided copies, first of equals, as PyTorch's gradient has it."""
  f, t = (n // k for n, k in zip(x.shape[1:3], size, strict=True))
  cells = [
    x[:, i : f * size[0] : size[0], j : t * size[1] : size[1]]
    for i in range(size[0])
    for j in range(size[1])
  ]
  return functools.reduce(  # a NaN stays one
    lambda best, one: jnp.where((one > best) | jnp.isnan(one), one, best), cells
  )


def max_pool_windows(
  x: Float[Array, "b f t c"], size: tuple[int, int]
) -> Float[Array, "b f2 t2 c"]:
  """As XLA's windows."""
  least, window = np.array(-np.inf, x.dtype), (1, *size, 1)
  return jax.lax.reduce_window(x, least, jax.lax.max, window, window, "VALID")


def stem(
  x: Float[Array, "b f t"],
  kernel: Float[Array, "3 3 c"],
  kernels: str = "xla",
  padding: Padding = None,
) -> Float[Array, "b f2 t2 c"]:
  """The first convolution: 3 x 3, stride 2, of a map with one channel."""
  kernel = kernel.astype(x.dtype)
  if padding is None and has_native(x, kernels):
    from mobile_jax import native

    return native.stem_convolution(x, kernel)

  def taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # Broadcasting one channel over all of them: nine products per output, as a depthwise one.
    return depthwise_taps(x[..., None], kernel, stride=2, padding=padding)

  pad = zeros_around(kernel.shape[0], padding=padding)

  def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
      x[..., None],
      kernel[:, :, None],
      (2, 2),
      (pad, pad),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=PRECISION,
    )

  return jax.lax.platform_dependent(x, kernel, cpu=taps, default=convolution)


# Up to this many clips the kernels are mixed as a fused sum, which reads them once per clip; a
# matrix product reads them once for all, but XLA:CPU runs a short one on one core.
_FEW = 2


def mix(share: Float[Array, "b n"], kernels: Float[Array, "n ..."]) -> Float[Array, "b ..."]:
  """sum_n share[b, n] kernels[n]."""
  if share.shape[0] <= _FEW:
    wide = (slice(None), *(None,) * (kernels.ndim - 1))
    terms = [share[:, n][wide] * kernels[n][None] for n in range(kernels.shape[0])]
    return functools.reduce(jnp.add, terms)
  flat = jnp.matmul(
    share, kernels.reshape(kernels.shape[0], -1), precision=jax.lax.Precision.HIGHEST
  )
  return flat.reshape(share.shape[0], *kernels.shape[1:])
