"""The native kernels that have gradients: what a training step of these networks is made of.

As in `kernels`, all is float32, channels-last and for the CPU alone. Reverse mode only: `jax.jvp`
of these raises. Numbers do not depend on how many threads work.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from mobile_jax.native.kernels import (
  activation_number,
  expand_depthwise,
  invoke,
  pointwise,
  stem,
)


def depthwise(
  x: Float32[Array, "b f t c"],
  kernel: Float32[Array, "k k c"] | Float32[Array, "b k k c"],
  stride: int = 1,
  dilation: int = 1,
) -> Float32[Array, "b f2 t2 c"]:
  """Depthwise convolution with symmetric zero padding.

  The kernel is one for all clips or one per clip; k is odd and at most 9.
  """
  return _depthwise(x, kernel, stride, dilation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x, kernel, stride, dilation):
  return _depthwise_forward(x, kernel, stride, dilation)[0]


def _depthwise_forward(x, kernel, stride, dilation):
  x, kernel = jnp.asarray(x), jnp.asarray(kernel)  # jax.vjp of NumPy arrays arrives here as such
  y, _ = expand_depthwise(
    x, None, None, kernel, None, activation="none", stride=stride, dilation=dilation
  )
  return y, (x, kernel)


def _depthwise_backward(stride, dilation, saved, dy):
  x, kernel = saved
  return _depthwise_gradients(x, kernel, dy, stride, dilation, dict.fromkeys(_PENDING), 0)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)

_PENDING = ("mean", "factor", "bias")


def _depthwise_gradients(x, kernel, dy, stride, dilation, pending, activation):
  """Those of what the convolution reads and of its kernel; x has the pending norm before it."""
  shape = {"stride": stride, "dilation": dilation}
  operands = {"dy": (dy, None), "kernel": (kernel, None)}
  (dx,) = invoke("mobile_depthwise_input_gradient", [x.shape], operands, **shape)
  operands = {"dy": (dy, None), "x": (x, None)}
  operands |= {name: (pending[name], x.shape[-1:]) for name in _PENDING}
  (dkernel,) = invoke(
    "mobile_depthwise_kernel_gradient", [kernel.shape], operands, activation=activation, **shape
  )
  return dx, dkernel


def multiply(
  x: Float32[Array, "b f t c"],
  kernel: Float32[Array, "c d"] | Float32[Array, "b c d"],
) -> Float32[Array, "b f t d"]:
  """1x1 convolution, with one kernel for all clips or one per clip."""
  return _multiply(x, kernel)


@jax.custom_vjp
def _multiply(x, kernel):
  return _multiply_forward(x, kernel)[0]


def _multiply_forward(x, kernel):
  x, kernel = jnp.asarray(x), jnp.asarray(kernel)
  return pointwise(x, kernel, None), (x, kernel)


def _multiply_backward(saved, dy):
  x, kernel = saved
  dx = pointwise(dy, jnp.swapaxes(kernel, -1, -2), None)
  operands = {"x": (x, None), "dy": (dy, None)}
  (dkernel,) = invoke("mobile_pointwise_kernel_gradient", [kernel.shape], operands)
  return dx, dkernel


_multiply.defvjp(_multiply_forward, _multiply_backward)


def stem_convolution(
  x: Float32[Array, "b f t"], kernel: Float32[Array, "3 3 c"]
) -> Float32[Array, "b f2 t2 c"]:
  """The first convolution of a one-channel map: 3x3, stride 2, one zero around."""
  return _stem(x, kernel)


@jax.custom_vjp
def _stem(x, kernel):
  return _stem_forward(x, kernel)[0]


def _stem_forward(x, kernel):
  x, kernel = jnp.asarray(x), jnp.asarray(kernel)
  return stem(x, kernel, jnp.zeros(kernel.shape[-1:], jnp.float32), activation="none"), (x, kernel)


def _stem_backward(saved, dy):
  x, kernel = saved
  c, f2, t2 = kernel.shape[-1], dy.shape[1], dy.shape[2]
  (patches,) = invoke("mobile_stem_patches", [(*dy.shape[:3], 9)], {"x": (x, None)})
  operands = {"x": (patches, None), "dy": (dy, None)}
  (dkernel,) = invoke("mobile_pointwise_kernel_gradient", [(9, c)], operands)
  # Hardly anybody asks for the gradient of the log-mel; what nobody asks for is not computed.
  places = pointwise(dy, kernel.reshape(9, c).T, None)
  dx = jnp.zeros((x.shape[0], 2 * f2 + 1, 2 * t2 + 1), jnp.float32)
  for i in range(9):
    row, column = divmod(i, 3)
    dx = dx.at[:, row : row + 2 * f2 : 2, column : column + 2 * t2 : 2].add(places[..., i])
  return dx[:, 1 : x.shape[1] + 1, 1 : x.shape[2] + 1], dkernel.reshape(kernel.shape)


_stem.defvjp(_stem_forward, _stem_backward)


def normalise(
  x: Float32[Array, "*axes c"],
  scale: Float32[Array, " c"],
  bias: Float32[Array, " c"],
  eps: float,
  activation: str = "none",
) -> tuple[Float32[Array, "*axes c"], Float32[Array, " c"], Float32[Array, " c"]]:
  """Batch normalisation over all axes but the last, and the activation: (y, mean, variance).

  y = act((x - mean) / sqrt(variance + eps) * scale + bias) with the batch's own mean and biased
  variance, through which gradients flow to x. The two that are returned are for running statistics
  and pass no gradient on.
  """
  y, mean, var = _normalise(x, scale, bias, eps, activation)
  return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(var)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalise(x, scale, bias, eps, activation):
  return _normalise_forward(x, scale, bias, eps, activation)[0]


def _normalise_forward(x, scale, bias, eps, activation):
  x, scale, bias = jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias)
  mean, var, rate = _statistics(x, eps)
  shared = _shared(x, mean, rate * scale, bias)
  (y,) = invoke("mobile_norm_apply", [x.shape], shared, activation=activation_number(activation))
  return (y, mean, var), (x, mean, rate, scale, bias)


def _normalise_backward(eps, activation, saved, cotangents):
  del eps
  x, mean, rate, scale, bias = saved
  return _norm_gradients(x, mean, rate, scale, bias, cotangents[0], activation)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _statistics(x, eps):
  """(mean, variance, 1 / deviation) of every channel."""
  channels = x.shape[-1:]
  mean, var = invoke("mobile_norm_statistics", [channels, channels], {"x": (x, None)})
  return mean, var, jax.lax.rsqrt(var + eps)


def _norm_gradients(x, mean, rate, scale, bias, dy, activation):
  """Those of x, scale and bias, from the one of act((x - mean) rate scale + bias)."""
  channels, count = x.shape[-1:], x.size // x.shape[-1]
  factor, number = rate * scale, activation_number(activation)
  shared = _shared(x, mean, factor, bias) | {"dy": (dy, x.shape)}
  total, moment = invoke(
    "mobile_norm_gradient_sums", [channels, channels], shared, activation=number
  )
  # x moves the mean and the variance too: the part of the gradient along each is taken off.
  operands = shared | {
    "level": (factor * total / count, channels),
    "tilt": (factor * jnp.square(rate) * moment / count, channels),
  }
  (dx,) = invoke("mobile_norm_gradient", [x.shape], operands, activation=number)
  return dx, rate * moment, total


def _shared(x, mean, factor, bias):
  channels = x.shape[-1:]
  return {
    "x": (x, None),
    "mean": (mean, channels),
    "factor": (factor, channels),
    "bias": (bias, channels),
  }


def normalised_depthwise(
  x: Float32[Array, "b f t c"],
  scale: Float32[Array, " c"],
  bias: Float32[Array, " c"],
  kernel: Float32[Array, "k k c"] | Float32[Array, "b k k c"],
  eps: float,
  activation: str,
  stride: int = 1,
  dilation: int = 1,
) -> tuple[Float32[Array, "b f2 t2 c"], Float32[Array, " c"], Float32[Array, " c"]]:
  """`normalise`, then `depthwise`, without the wide map between them: (y, mean, variance)."""
  y, mean, var = _normalised(x, scale, bias, kernel, eps, activation, stride, dilation)
  return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(var)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def _normalised(x, scale, bias, kernel, eps, activation, stride, dilation):
  return _normalised_forward(x, scale, bias, kernel, eps, activation, stride, dilation)[0]


def _normalised_forward(x, scale, bias, kernel, eps, activation, stride, dilation):
  x, scale, bias, kernel = (jnp.asarray(a) for a in (x, scale, bias, kernel))
  mean, var, rate = _statistics(x, eps)
  y, _ = expand_depthwise(
    x, None, bias, kernel, None, mean=mean, factor=rate * scale,
    activation=activation, depthwise_activation="none", stride=stride, dilation=dilation,
  )  # fmt: skip
  return (y, mean, var), (x, mean, rate, scale, bias, kernel)


def _normalised_backward(eps, activation, stride, dilation, saved, cotangents):
  del eps
  x, mean, rate, scale, bias, kernel = saved
  pending = {"mean": mean, "factor": rate * scale, "bias": bias}
  number = activation_number(activation)
  between, dkernel = _depthwise_gradients(
    x, kernel, cotangents[0], stride, dilation, pending, number
  )
  dx, dscale, dbias = _norm_gradients(x, mean, rate, scale, bias, between, activation)
  return dx, dscale, dbias, dkernel


_normalised.defvjp(_normalised_forward, _normalised_backward)
