"""The native kernels that have gradients: what a training step of these networks is made of.

As in `kernels`, all is float32, channels-last and for the CPU alone. Reverse mode only: `jax.jvp`
of these raises. Numbers do not depend on how many threads work.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from mobile_jax.native.kernels import activation_number, expand_depthwise, invoke, pointwise


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
  shared = {"stride": stride, "dilation": dilation}
  operands = {"dy": (dy, None), "kernel": (kernel, None)}
  (dx,) = invoke("mobile_depthwise_input_gradient", [x.shape], operands, **shared)
  operands = {"dy": (dy, None), "x": (x, None)}
  (dkernel,) = invoke("mobile_depthwise_kernel_gradient", [kernel.shape], operands, **shared)
  return dx, dkernel


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


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
  channels = x.shape[-1:]
  mean, var = invoke("mobile_norm_statistics", [channels, channels], {"x": (x, None)})
  rate = jax.lax.rsqrt(var + eps)
  shared = _shared(x, mean, rate * scale, bias)
  number = activation_number(activation)
  (y,) = invoke("mobile_norm_apply", [x.shape], shared, activation=number)
  return (y, mean, var), (x, mean, rate, scale, bias)


def _normalise_backward(eps, activation, saved, cotangents):
  del eps
  x, mean, rate, scale, bias = saved
  dy, channels, count = cotangents[0], x.shape[-1:], x.size // x.shape[-1]
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


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _shared(x, mean, factor, bias):
  channels = x.shape[-1:]
  return {
    "x": (x, None),
    "mean": (mean, channels),
    "factor": (factor, channels),
    "bias": (bias, channels),
  }
