"""Convolution with batch norm, and squeeze-and-excitation: what all these networks are made of."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax.config import Activation, Aggregate, make_divisible
from mobile_jax.draws import normal, uniform
from mobile_jax.fused import Folded, project
from mobile_jax.norm import BatchNorm
from mobile_jax.ops import (
  ACTIVATIONS,
  Padding,
  Stride,
  common_stride,
  dense,
  depthwise,
  has_native,
  per_channel,
  pointwise,
  stem,
)

Kind = Literal["stem", "pointwise", "depthwise"]
Start = Literal["kaiming_fan_out", "xavier", "fan_in"]
# Which axis of a map [b, f, t, c] each squeeze-and-excitation rescales.
AXES = {"c": 3, "f": 1, "t": 2}


def kaiming_fan_out(outputs: int) -> nn.initializers.Initializer:
  """N(0, 2 / outputs): outputs = channels * k * k, for depthwise kernels too, as released."""
  return normal(math.sqrt(2 / outputs))


# How a kernel starts, by what one output and one input meet: channels * k * k.
STARTS: dict[Start, Callable[[int, int], nn.initializers.Initializer]] = {
  "kaiming_fan_out": lambda fan_in, fan_out: kaiming_fan_out(fan_out),
  # Equal chances, variance 2 / (fan_in + fan_out) (Glorot, Bengio 2010).
  "xavier": lambda fan_in, fan_out: uniform(math.sqrt(6 / (fan_in + fan_out))),
  # Equal chances up to 1 / sqrt(fan_in): what PyTorch's layers do by themselves.
  "fan_in": lambda fan_in, fan_out: uniform(1 / math.sqrt(fan_in)),
}
# Every linear layer starts from N(0, 0.01) (reference text, section 4).
LINEAR_INIT = normal(0.01)


class Linear(nn.Module):
  """y = x @ kernel + bias in float32; kernel f32[in, out] of N(0, 0.01) or `start`, bias of 0."""

  inputs: int
  outputs: int
  kernels: str = "xla"
  start: nn.initializers.Initializer = LINEAR_INIT

  @nn.compact
  def __call__(self, x: Float[Array, "*axes c"]) -> Float[Array, "*axes d"]:
    kernel = self.param("kernel", self.start, (self.inputs, self.outputs))
    bias = self.param("bias", nn.initializers.zeros, (self.outputs,))
    x = x.astype(jnp.float32)
    if x.ndim == 3 and has_native(x, self.kernels):
      # XLA:CPU runs a product of few rows on one core.
      return project(x[:, None], Folded(kernel, bias))[:, 0]
    y = jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST)
    return y + bias.reshape((1,) * (y.ndim - 1) + bias.shape)


class ConvNorm(nn.Module):
  """A convolution without bias and the batch norm behind it.

  kernel: [3, 3, c] of the stem, [c, d] of a pointwise, [k, k, c] of a depthwise convolution.
  """

  kind: Kind
  inputs: int
  outputs: int
  size: int = 1
  stride: Stride = 1
  dilation: int = 1
  kernels: str = "xla"
  eps: float = BatchNorm.eps
  momentum: float = BatchNorm.momentum
  start: Start = "kaiming_fan_out"
  padding: Padding = None

  def setup(self):
    """The kernel, and the norm's variables under "norm"."""
    shape: tuple[int, ...] = (self.size, self.size, self.outputs)
    if self.kind == "pointwise":
      shape = (self.inputs, self.outputs)
    fan_in = math.prod(shape[:-1])  # a depthwise output meets one channel
    start = STARTS[self.start](fan_in, self.outputs * self.size**2)
    self.kernel = self.param("kernel", start, shape)
    self.norm = BatchNorm(self.outputs, self.eps, self.momentum, self.kernels)

  def __call__(
    self, x: jax.Array, train: bool = False, activation: Activation = "none"
  ) -> jax.Array:
    """Convolved, normalised and activated: the form of training."""
    return self.norm(self.convolved(x), train, activation).astype(x.dtype)

  def convolved(self, x: jax.Array) -> jax.Array:
    """Neither normalised nor activated."""
    match self.kind:
      case "stem":
        y = stem(x, self.kernel, self.kernels, self.padding)
      case "pointwise":
        y = pointwise(x, self.kernel, self.kernels)
      case _:
        y = depthwise(x, self.kernel, self.stride, self.dilation, self.kernels, self.padding)
    return y

  def after(self, before: ConvNorm, x: jax.Array, activation: Activation) -> jax.Array:
    """self(before(x)), both in training and with the same activation.

    A depthwise convolution on the CPU normalises what it reads by itself: the wide map between the
    two is never written.
    """
    wide = before.convolved(x)
    low, skip = common_stride(self.stride)
    fits = self.kind == "depthwise" and skip == (1, 1) and self.padding is None
    if not (fits and has_native(wide, self.kernels, activation)):
      return self(before.norm(wide, True, activation).astype(x.dtype), True, activation)
    from mobile_jax import native

    def form(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float):
      return native.normalised_depthwise(
        x, scale, bias, self.kernel, eps, activation, low, self.dilation
      )

    return self.norm(before.norm.through(wide, form), True, activation)

  def folded(self) -> Folded:
    """Kernel, and the norm of inference as its scale and bias."""
    scale, bias = self.norm.folded()
    return Folded(self.kernel, bias, scale=scale)


class DenseNorm(nn.Module):
  """A convolution between all channels of a group, without bias, and the batch norm behind it.

  kernel: [k, k, c / groups, d].
  """

  inputs: int
  outputs: int
  size: int
  stride: int = 1
  padding: int = 0
  groups: int = 1
  start: nn.initializers.Initializer | None = None
  eps: float = 1e-5
  momentum: float = 0.1

  def setup(self):
    """The kernel, and the norm's variables under "norm"."""
    start = self.start or kaiming_fan_out(self.outputs * self.size**2)
    shape = (self.size, self.size, self.inputs // self.groups, self.outputs)
    self.kernel = self.param("kernel", start, shape)
    self.norm = BatchNorm(self.outputs, self.eps, self.momentum)

  def __call__(
    self, x: Float[Array, "b f t c"], train: bool = False, activation: Activation = "none"
  ) -> Float[Array, "b f2 t2 d"]:
    """Convolved, normalised and activated; in inference with the norm in the kernel."""
    if train:
      return self.norm(self._convolved(x, self.kernel), train, activation).astype(x.dtype)
    scale, bias = self.norm.folded()
    y = self._convolved(x, self.kernel * scale[None, None, None]) + per_channel(bias)
    return ACTIVATIONS[activation](y).astype(x.dtype)

  def _convolved(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return dense(x, kernel, self.stride, self.padding, self.groups)


class SqueezeExcite(nn.Module):
  """Gates for one axis of a map from its mean over the other two (reference text, section 3.2)."""

  size: int
  reduction: int = 4

  @nn.compact
  def __call__(
    self, mean: Float[Array, "b n"]
  ) -> tuple[Float[Array, "b n"], Float[Array, "b squeezed"]]:
    """(gate in 0..1, bottleneck before its ReLU)."""
    bottleneck = make_divisible(self.size // self.reduction)
    squeezed = Linear(self.size, bottleneck, name="down")(mean)
    gate = Linear(bottleneck, self.size, name="up")(jnp.maximum(squeezed, 0.0))
    return nn.sigmoid(gate), squeezed


def rescale(x: Float[Array, "b f t c"], gate: Float[Array, "b n"], axis: int) -> jax.Array:
  """The map times a gate along one of its axes."""
  shape = [x.shape[0], 1, 1, 1]
  shape[axis] = gate.shape[1]
  return x * gate.reshape(shape)


def aggregate(maps: list[jax.Array], how: Aggregate) -> jax.Array:
  """Maps of concurrent squeeze-and-excitations, joined element by element."""
  if how in ("avg", "add"):
    total = functools.reduce(jnp.add, maps)
    return total / len(maps) if how == "avg" else total
  # Selection by comparison, not jnp.maximum: see `fused.dynamic_relu`.
  better = jnp.greater if how == "max" else jnp.less
  return functools.reduce(lambda a, b: jnp.where(better(b, a), b, a), maps)


class Excitation(nn.Module):
  """Squeeze-and-excitation over one or several axes of a map at once.

  Returns what the projection has to multiply in: for channels alone a gate per channel, which it
  can take into its kernel; for anything else the rescaled map.
  """

  axes: tuple[str, ...]
  sizes: tuple[int, ...]
  reduction: int
  how: Aggregate

  @nn.compact
  def __call__(
    self, x: Float[Array, "b f t c"], mean: Float[Array, "b c"]
  ) -> tuple[jax.Array, jax.Array | None, dict[str, jax.Array]]:
    """(map, gate per channel still to be multiplied in, bottlenecks by axis)."""
    maps, gates, squeezed = [], [], {}
    for axis, size in zip(self.axes, self.sizes, strict=True):
      others = tuple({1, 2, 3} - {AXES[axis]})
      pooled = mean if axis == "c" else jnp.mean(x.astype(jnp.float32), axis=others)
      if pooled.shape[1] != size:
        raise ValueError(
          f"squeeze-and-excitation over {axis!r} was built for {size} places and meets "
          f"{pooled.shape[1]}: set mel.mel_bins and frames to the input's size"
        )
      gate, squeezed[axis] = SqueezeExcite(size, self.reduction, name=f"se_{axis}")(pooled)
      gates.append(gate)
      if self.axes != ("c",):
        maps.append(rescale(x, gate, AXES[axis]).astype(x.dtype))
    if self.axes == ("c",):
      return x, gates[0], squeezed
    return aggregate(maps, self.how), None, squeezed


def gated(x: Float[Array, "b f t c"], gate: jax.Array | None) -> jax.Array:
  """The map times a gate per channel, if there is one."""
  return x if gate is None else (x * per_channel(gate)).astype(x.dtype)
