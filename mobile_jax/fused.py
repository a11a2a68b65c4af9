"""The two halves of an inverted residual block in inference, with batch norm folded in.

    x[b, f, t, c] --expand 1x1, act--> e channels --depthwise k x k, act, gates--> y, mean of y
    y             --scale per channel, project 1x1, act--> + residual

On a CPU with a compiler each half is one C++ kernel (`mobile_jax.native`), which keeps the wide
middle in cache; elsewhere, and with `kernels="xla"`, it is the plain form below, which also defines
the derivatives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax.config import Activation
from mobile_jax.ops import (
  ACTIVATIONS,
  Stride,
  common_stride,
  depthwise,
  has_native,
  mix,
  per_channel,
  pointwise,
  stem,
)


class Folded(NamedTuple):
  """A convolution with the batch norm of inference: (mix of kernels) * scale, and a bias.

  kernel: [..., d], or one for each clip [b, ..., d]. With mix f32[b, n], the n kernels [n, ..., d]
  of a dynamic convolution: a clip's kernel is their sum by its weights. scale: f32[d] or None.
  The C++ forms of 1x1 convolutions mix and scale as they read, so that no mixed kernel is written.
  """

  kernel: jax.Array
  bias: jax.Array
  mix: jax.Array | None = None
  scale: jax.Array | None = None

  def whole(self) -> Folded:
    """The same with mix and scale worked into the kernel."""
    kernel = self.kernel if self.mix is None else mix(self.mix, self.kernel)
    if self.scale is not None:
      kernel = kernel * self.scale.reshape((1,) * (kernel.ndim - 1) + self.scale.shape)
    return Folded(kernel, self.bias)


class Gates(NamedTuple):
  """What a dynamic block does between its depthwise convolution and its projection.

  relu: f32[b, e, 2 M], M slopes then M intercepts per channel, of max_m(slope x + intercept), in
  place of the activation. frequency f32[b, f, e], time f32[b, t, e]: factors. Any may be None.
  """

  relu: jax.Array | None = None
  frequency: jax.Array | None = None
  time: jax.Array | None = None


def dynamic_relu(
  x: Float[Array, "b f t c"], coefficients: Float[Array, "b c pieces"]
) -> Float[Array, "b f t c"]:
  """Max over m of slope_m x + intercept_m, slopes first (reference text, section 5.5)."""
  pieces = coefficients.shape[-1] // 2
  lines = [
    x * per_channel(coefficients[..., m]) + per_channel(coefficients[..., pieces + m])
    for m in range(pieces)
  ]
  # Not jnp.maximum: its derivative compares the pieces with their maximum for equality, and XLA may
  # compute them anew with another rounding there, so that neither is equal and the gradient is lost
  # (half of it was, in the first blocks).
  return functools.reduce(lambda best, line: jnp.where(line > best, line, best), lines)


def expand_depthwise(
  x: Float[Array, "b f t c"],
  expand: Folded | None,
  middle: Folded,
  *,
  activation: Activation,
  stride: Stride = 1,
  dilation: int = 1,
  gates: Gates | None = None,
  kernels: str = "auto",
) -> tuple[Float[Array, "b f2 t2 e"], Float[Array, "b e"]]:
  """(map, its mean over frequency and time) of the first half of a block.

  expand: None where the block has no expansion.
  """
  static: dict[str, Any] = {"activation": activation, "stride": stride, "dilation": dilation}
  plain = functools.partial(_expand_depthwise, **static)
  quick = functools.partial(_native_expand_depthwise, **static)
  rest = (x, expand, middle, gates or Gates())
  return _choose(plain, quick, kernels, *rest, activation=activation)


def project(
  x: Float[Array, "b f t c"],
  folded: Folded,
  *,
  scale: Float[Array, "b c"] | None = None,
  residual: Float[Array, "b f t d"] | None = None,
  activation: Activation = "none",
  kernels: str = "auto",
) -> Float[Array, "b f t d"]:
  """activation((x * scale) @ kernel + bias) + residual."""
  plain = functools.partial(_project, activation=activation)
  quick = functools.partial(_native_project, activation=activation)
  return _choose(plain, quick, kernels, x, folded, scale, residual, activation=activation)


def first(
  x: Float[Array, "b f t"], folded: Folded, *, activation: Activation, kernels: str = "auto"
) -> Float[Array, "b f2 t2 c"]:
  """The stem with its activation."""
  plain = functools.partial(_first, activation=activation)
  quick = functools.partial(_native_first, activation=activation)
  return _choose(plain, quick, kernels, x, folded, activation=activation)


def last(
  x: Float[Array, "b f t c"], folded: Folded, *, activation: Activation, kernels: str = "auto"
) -> tuple[Float[Array, "b f t d"], Float[Array, "b d"]]:
  """The last 1x1 convolution with its activation: (map, its mean over frequency and time)."""
  plain = functools.partial(_last, activation=activation)
  quick = functools.partial(_native_last, activation=activation)
  # Two results of two kernels: whoever needs the mean alone never writes the map.
  y = project(x, folded, activation=activation, kernels=kernels)
  return y, _choose(plain, quick, kernels, x, folded, activation=activation)


def axis_means(x: Float[Array, "b f t c"], *, kernels: str = "auto") -> Float[Array, "b places c"]:
  """F means over time, then t means over frequency, in float32: what a context is made from."""
  return _choose(_axis_means, _native_axis_means, kernels, x.astype(jnp.float32))


def pool(x: Float[Array, "b f t c"]) -> Float[Array, "b c"]:
  """Mean over frequency and time, in float32."""
  return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


# --- the plain forms ---


def _expand_depthwise(
  x: jax.Array,
  expand: Folded | None,
  middle: Folded,
  gates: Gates,
  *,
  activation: Activation,
  stride: Stride,
  dilation: int,
) -> tuple[jax.Array, jax.Array]:
  act = ACTIVATIONS[activation]
  dtype = x.dtype
  middle = middle.whole()
  if expand is not None:
    expand = expand.whole()
    x = act(pointwise(x, expand.kernel) + per_channel(expand.bias)).astype(dtype)
  y = depthwise(x, middle.kernel, stride, dilation) + per_channel(middle.bias)
  y = act(y) if gates.relu is None else dynamic_relu(y, gates.relu)
  if gates.frequency is not None:
    y = y * gates.frequency[:, :, None]
  if gates.time is not None:
    y = y * gates.time[:, None]
  return y.astype(dtype), pool(y)


def _project(
  x: jax.Array,
  folded: Folded,
  scale: jax.Array | None,
  residual: jax.Array | None,
  *,
  activation: Activation,
) -> jax.Array:
  dtype = x.dtype
  folded = folded.whole()
  if scale is not None:
    x = (x * per_channel(scale)).astype(dtype)
  y = ACTIVATIONS[activation](pointwise(x, folded.kernel) + per_channel(folded.bias))
  return (y if residual is None else y + residual).astype(dtype)


def _last(x: jax.Array, folded: Folded, *, activation: Activation) -> jax.Array:
  return pool(_project(x, folded, None, None, activation=activation))


def _axis_means(x: jax.Array) -> jax.Array:
  # Frequency first, as in the released code; the paper writes the other order.
  return jnp.concatenate([jnp.mean(x, axis=2), jnp.mean(x, axis=1)], axis=1)


def _first(x: jax.Array, folded: Folded, *, activation: Activation) -> jax.Array:
  folded = folded.whole()
  y = ACTIVATIONS[activation](stem(x, folded.kernel) + per_channel(folded.bias))
  return y.astype(x.dtype)


# --- the kernels of `mobile_jax.native` ---


def _native_expand_depthwise(
  x: jax.Array,
  expand: Folded | None,
  middle: Folded,
  gates: Gates,
  *,
  activation: Activation,
  stride: Stride,
  dilation: int,
) -> tuple[jax.Array, jax.Array]:
  from mobile_jax import native

  middle = middle.whole()
  low, skip = common_stride(stride)
  y, mean = native.expand_depthwise(
    x,
    expand.kernel if expand else None,
    expand.bias if expand else None,
    middle.kernel,
    middle.bias,
    activation=activation,
    stride=low,
    dilation=dilation,
    dyrelu=gates.relu,
    gate_f=gates.frequency,
    gate_t=gates.time,
    expand_mix=expand.mix if expand else None,
    expand_scale=expand.scale if expand else None,
  )
  if skip == (1, 1):
    return y, mean
  y = y[:, :: skip[0], :: skip[1]]
  return y, pool(y)


def _native_project(
  x: jax.Array,
  folded: Folded,
  scale: jax.Array | None,
  residual: jax.Array | None,
  *,
  activation: Activation,
) -> jax.Array:
  from mobile_jax import native

  return native.pointwise(
    x,
    folded.kernel,
    folded.bias,
    scale=scale,
    residual=residual,
    activation=activation,
    mix=folded.mix,
    kernel_scale=folded.scale,
  )


def _native_last(x: jax.Array, folded: Folded, *, activation: Activation) -> jax.Array:
  from mobile_jax import native

  return native.pointwise_mean(
    x,
    folded.kernel,
    folded.bias,
    activation=activation,
    mix=folded.mix,
    kernel_scale=folded.scale,
  )


def _native_first(x: jax.Array, folded: Folded, *, activation: Activation) -> jax.Array:
  from mobile_jax import native

  folded = folded.whole()
  return native.stem(x, folded.kernel, folded.bias, activation=activation)


def _native_axis_means(x: jax.Array) -> jax.Array:
  from mobile_jax import native

  return native.axis_means(x)


def _choose(
  plain: Callable,
  quick: Callable,
  kernels: str,
  x: jax.Array,
  *rest: Any,
  activation: Activation = "none",
) -> Any:
  """The quick form on a CPU where it exists, the plain one elsewhere and for derivatives.

  kernels: "native" leaves out what other devices than CPUs would run.
  """
  if not has_native(x, kernels, activation):
    return plain(x, *rest)

  @jax.custom_jvp
  def run(*operands: Any) -> Any:
    if kernels == "native":
      return quick(*operands)
    return jax.lax.platform_dependent(*operands, cpu=quick, default=plain)

  @run.defjvp
  def _(primals: tuple, tangents: tuple) -> tuple:
    return run(*primals), jax.jvp(plain, primals, tangents)[1]

  return run(x, *rest)
