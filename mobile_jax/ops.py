"""The convolutions of these networks as pure functions, each in the form its backend runs best.

Maps are x[b, f, t, c]: batch, frequency, time, channels. All convolutions pad symmetrically with
dilation * (kernel - 1) // 2 on both sides, also at stride 2 (reference text, section 0); XLA's
"SAME" pads on one side there and gives other numbers.

    form          where           why
    taps          CPU             XLA runs grouped convolutions on a CPU 10 to 50 times slower than
                                  k * k shifted products and sums
    convolution   GPU, TPU        their libraries have depthwise kernels
    products      everywhere      a 1x1 convolution is a matrix product
    C++ kernels   CPU, inference  `mobile_jax.native`: fused, nothing wide is written to memory
    C++ kernels   CPU, training   `mobile_jax.native.training`: with backward passes of their own

`kernels` of these functions is a configuration's: "auto" takes the C++ forms where there are some,
"xla" leaves them out. The C++ forms of training have no forward-mode derivative.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax.config import Activation, conv_size

# True float32 products: GPUs and TPUs would round their inputs to 10 or 7 bits.
PRECISION = jax.lax.Precision.HIGHEST


def hardswish(x: jax.Array) -> jax.Array:
  """X * clip(x + 3, 0, 6) / 6."""
  return x * jnp.clip(x + 3.0, 0.0, 6.0) * (1.0 / 6.0)


ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
  "relu": jax.nn.relu,
  "hardswish": hardswish,
  "none": lambda x: x,
}


def per_channel(x: jax.Array) -> jax.Array:
  """[c] or [b, c] with the axes of a map [b, f, t, c]."""
  return x[None, None, None] if x.ndim == 1 else x[:, None, None]


def has_native(x: jax.Array, kernels: str) -> bool:
  """True where the C++ forms are asked for, are there, and take this map."""
  if kernels != "auto" or x.dtype != jnp.float32 or x.size == 0:
    return False
  from mobile_jax import native

  return native.available()


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
  stride: int = 1,
  dilation: int = 1,
  kernels: str = "xla",
) -> Float[Array, "b f2 t2 c"]:
  """One k x k filter per channel; a kernel [b, k, k, c] holds one set of filters per clip."""
  kernel = kernel.astype(x.dtype)
  if has_native(x, kernels):
    from mobile_jax import native

    return native.depthwise(x, kernel, stride, dilation)
  taps = functools.partial(depthwise_taps, stride=stride, dilation=dilation)
  convolution = functools.partial(depthwise_convolution, stride=stride, dilation=dilation)
  return jax.lax.platform_dependent(x, kernel, cpu=taps, default=convolution)


def depthwise_taps(
  x: Float[Array, "b f t #c"],
  kernel: Float[Array, "*per_clip k k c"],
  stride: int = 1,
  dilation: int = 1,
) -> Float[Array, "b f2 t2 c"]:
  """As k * k shifted copies of the map, each times its tap: one fused loop on a CPU."""
  size = kernel.shape[-2]
  pad = (size - 1) // 2 * dilation
  f, t = (conv_size(n, size, stride, dilation) for n in x.shape[1:3])
  padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  terms = []
  for row in range(size):
    for column in range(size):
      top, left = row * dilation, column * dilation
      shifted = padded[
        :, top : top + (f - 1) * stride + 1 : stride, left : left + (t - 1) * stride + 1 : stride
      ]
      terms.append(shifted * per_channel(kernel[..., row, column, :]))
  return functools.reduce(jnp.add, terms)


def depthwise_convolution(
  x: Float[Array, "b f t c"],
  kernel: Float[Array, "*per_clip k k c"],
  stride: int = 1,
  dilation: int = 1,
) -> Float[Array, "b f2 t2 c"]:
  """As XLA's grouped convolution; filters per clip become groups of their own."""
  batch, f, t, channels = x.shape
  per_clip = kernel.ndim == 4
  if per_clip:
    x = x.transpose(1, 2, 0, 3).reshape(1, f, t, batch * channels)
    kernel = kernel.transpose(1, 2, 0, 3).reshape(*kernel.shape[1:3], batch * channels)
  pad = (kernel.shape[0] - 1) // 2 * dilation
  out = jax.lax.conv_general_dilated(
    x,
    kernel[:, :, None],
    (stride, stride),
    ((pad, pad), (pad, pad)),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=kernel.shape[-1],
    precision=PRECISION,
  )
  if per_clip:
    out = out.reshape(*out.shape[1:3], batch, channels).transpose(2, 0, 1, 3)
  return out


def stem(
  x: Float[Array, "b f t"], kernel: Float[Array, "3 3 c"], kernels: str = "xla"
) -> Float[Array, "b f2 t2 c"]:
  """The first convolution: 3 x 3, stride 2, of a map with one channel."""
  kernel = kernel.astype(x.dtype)
  if has_native(x, kernels):
    from mobile_jax import native

    return native.stem_convolution(x, kernel)

  def taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # Broadcasting one channel over all of them: nine products per output, as a depthwise one.
    return depthwise_taps(x[..., None], kernel, stride=2)

  def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
      x[..., None],
      kernel[:, :, None],
      (2, 2),
      ((1, 1), (1, 1)),
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
