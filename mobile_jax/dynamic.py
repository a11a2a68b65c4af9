"""The parts of a dynamic block: context, dynamic convolution, dynamic ReLU (section 5).

x[b, f, t, c]    mean over t: [b, f, c], mean over f: [b, t, c], side by side, 1x1 to H, norm,
                 hardswish
of that          all f + t places, averaged:  context [b, H]
                 frequency part, 1x1:         gate [b, f, e]
                 time part, 1x1:              gate [b, t, e]
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mobile_jax.config import Activation, AttentionAxes, Sequences
from mobile_jax.fused import Folded, axis_means, project
from mobile_jax.layers import Kind, Linear, kaiming_fan_out
from mobile_jax.norm import BatchNorm
from mobile_jax.ops import depthwise, hardswish, mix, pointwise


class ContextOutputs(NamedTuple):
  """context f32[b, h]; frequency f32[b, f, e] and time f32[b, t, e] before their sigmoid."""

  context: jax.Array
  frequency: jax.Array | None
  time: jax.Array | None


class Context(nn.Module):
  """Context generation: one vector for the clip, and the gates of coordinate attention.

  gates: which axes get one. sequences: see `DyMNConfig`.
  """

  inputs: int
  size: int
  expanded: int
  stride: int
  gates: AttentionAxes | None
  sequences: Sequences = "shared"
  form: str = "xla"

  @nn.compact
  def __call__(self, x: Float[Array, "b f t c"], train: bool = False) -> ContextOutputs:
    f = x.shape[1]
    means = axis_means(x, kernels=self.form)
    joint = functools.partial(_Joint, self.inputs, self.size, self.form)
    if self.sequences == "separate":
      by_frequency = joint(name="joint_frequency")(means[:, :f], train)
      by_time = joint(name="joint_time")(means[:, f:], train)
      both = jnp.concatenate([by_frequency, by_time], axis=1)
    else:
      both = joint(name="joint")(means, train)
      by_frequency, by_time = jnp.split(both, [f], axis=1)
    if self.sequences == "concatenated":
      pair = [jnp.mean(by_frequency, axis=1), jnp.mean(by_time, axis=1)]
      context = jnp.concatenate(pair, axis=-1)
    else:
      # One mean over all places: the longer axis weighs more.
      context = jnp.mean(both, axis=1)
    frequency = time = None
    if self.gates in ("both", "frequency"):
      gate = Linear(self.size, self.expanded, self.form, name="frequency")
      frequency = gate(self._pool(by_frequency))
    if self.gates in ("both", "time"):
      gate = Linear(self.size, self.expanded, self.form, name="time")
      time = gate(self._pool(by_time))
    return ContextOutputs(context, frequency, time)

  def _pool(self, x: Float[Array, "b n h"]) -> Float[Array, "b m h"]:
    """Means of three places at stride 2; the zeros beyond the ends count (section 0, point 10)."""
    if self.stride == 1:
      return x
    count = (x.shape[1] - 1) // 2 + 1
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + 2 * (count - 1) + 1 : 2] for i in range(3)]
    return (shifted[0] + shifted[1] + shifted[2]) * (1.0 / 3.0)


class _Joint(nn.Module):
  """The 1x1 convolution that both sequences share, its norm and its hardswish."""

  inputs: int
  size: int
  form: str = "xla"

  @nn.compact
  def __call__(self, x: Float[Array, "b n c"], train: bool) -> Float[Array, "b n h"]:
    kernel = self.param("kernel", kaiming_fan_out(self.size), (self.inputs, self.size))
    norm = BatchNorm(self.size, name="norm")
    if train:
      y = norm(jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST), train=True)
      return hardswish(y)
    scale, bias = norm.folded()
    folded = Folded(kernel, bias, scale=scale)
    return project(x[:, None], folded, activation="hardswish", kernels=self.form)[:, 0]


class DynamicConvNorm(nn.Module):
  """K kernels mixed anew for each clip, and the batch norm behind the convolution.

  kernels f32[K, c, d] (pointwise) or f32[K, k, k, c] (depthwise); a router maps the context to K
  weights, softmax((context @ W + b) / temperature). Mixing the kernels first and convolving once
  costs one convolution, not K.
  """

  kind: Kind
  inputs: int
  outputs: int
  context: int
  kernels: int
  size: int = 1
  stride: int = 1
  dilation: int = 1
  form: str = "xla"

  def setup(self):
    """The kernels, the router and the norm."""
    shape: tuple[int, ...] = (self.size, self.size, self.outputs)
    if self.kind == "pointwise":
      shape = (self.inputs, self.outputs)
    init = kaiming_fan_out(self.outputs * self.size**2)
    self.kernel = self.param("kernel", init, (self.kernels, *shape))
    self.router = Linear(self.context, self.kernels)
    self.norm = BatchNorm(self.outputs, kernels=self.form)

  def __call__(
    self,
    x: Float[Array, "b f t c"],
    context: Float[Array, "b h"],
    temperature: jax.Array | float,
    train: bool = False,
    activation: Activation = "none",
  ) -> jax.Array:
    """Convolved, normalised and activated: the form of training."""
    kernel = mix(self.shares(context, temperature), self.kernel)
    if self.kind == "pointwise":
      y = pointwise(x, kernel, self.form)
    else:
      y = depthwise(x, kernel, self.stride, self.dilation, self.form)
    return self.norm(y, train, activation).astype(x.dtype)

  def folded(self, context: Float[Array, "b h"], temperature: jax.Array | float) -> Folded:
    """The K kernels with each clip's weights, and the norm of inference as scale and bias."""
    scale, bias = self.norm.folded()
    return Folded(self.kernel, bias, self.shares(context, temperature), scale)

  def shares(
    self, context: Float[Array, "b h"], temperature: jax.Array | float
  ) -> Float[Array, "b n"]:
    """Weight of every kernel for every clip."""
    return nn.softmax(self.router(context) / temperature, axis=-1)


class DynamicRelu(nn.Module):
  """Coefficients of Dy-ReLU, variant B, per clip and channel (reference text, section 5.5)."""

  channels: int
  context: int
  pieces: int

  @nn.compact
  def __call__(self, context: Float[Array, "b h"]) -> Float[Array, "b c pieces2"]:
    """f32[b, c, 2 M]: M slopes, then M intercepts; at theta = 0 it is ReLU's first slope alone."""
    raw = Linear(self.context, 2 * self.pieces * self.channels, name="coefficients")(context)
    theta = (2 * nn.sigmoid(raw) - 1).reshape(-1, self.channels, 2 * self.pieces)
    reach, start = relu_constants(self.pieces)
    return theta * reach[None, None] + start[None, None]


def relu_constants(pieces: int) -> tuple[np.ndarray, np.ndarray]:
  """(lambda, start) f32[2 M] of Dy-ReLU: the first slope in 0..2, others in -1..1, halves for
  intercepts. State dicts carry them as buffers `lambdas` and `init_v`.
  """
  reach = np.array([1.0] * pieces + [0.5] * pieces, np.float32)
  start = np.array([1.0] + [0.0] * (2 * pieces - 1), np.float32)
  return reach, start


def temperature_at(
  epoch: jax.Array | float | int,
  *,
  start: float = 30.0,
  first_slope: float = 1.0,
  second_slope: float = 0.02,
  end: float = 1.0,
) -> jax.Array:
  """Temperature of the Dy-Conv softmax in an epoch counted from 0 (reference text, section 5.4).

  Two lines that cross at 1, and a floor: 30, 29, ..., 1 with the released settings, where the
  second line never matters.
  """
  second = 1 + second_slope * (start - 1) / first_slope - second_slope * epoch
  return jnp.maximum(jnp.maximum(start - first_slope * epoch, second), end)
