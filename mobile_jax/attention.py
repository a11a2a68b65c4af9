"""The rivals of coordinate attention in table V of the DyMN paper, as gates of a map [b, f, t, c].

    se       squeeze-and-excitation                  arXiv 1709.01507
    cbam     channel, then place                     arXiv 1807.06521
    srm      recalibration by mean and deviation     arXiv 1903.10829
    gc       global context, added                   arXiv 1904.11492
    triplet  three pairs of axes, averaged           arXiv 2010.03045
    grn      global response normalisation, added    arXiv 2301.00808

The authors' code has none of them in this place; sizes and constants are those of the papers named.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax.draws import normal
from mobile_jax.fused import pool
from mobile_jax.layers import Linear, SqueezeExcite, kaiming_fan_out
from mobile_jax.norm import BatchNorm
from mobile_jax.ops import PRECISION, per_channel

# Bottlenecks are a quarter of the channels, as for MN's own squeeze-and-excitation.
REDUCTION = 4
_EPS = 1e-5
_GRN_EPS = 1e-6


class SE(nn.Module):
  """Channels gated from their mean."""

  channels: int

  @nn.compact
  def __call__(self, x: Float[Array, "b f t c"], train: bool = False) -> Float[Array, "b f t c"]:
    gate, _ = SqueezeExcite(self.channels, REDUCTION, name="se")(pool(x))
    return x * per_channel(gate)


class CBAM(nn.Module):
  """Channels gated from their mean and maximum, then places from theirs (7 x 7)."""

  channels: int

  @nn.compact
  def __call__(self, x: Float[Array, "b f t c"], train: bool = False) -> Float[Array, "b f t c"]:
    squeezed = max(8, self.channels // REDUCTION)
    down = Linear(self.channels, squeezed, name="down")
    up = Linear(squeezed, self.channels, name="up")
    raw = [up(jnp.maximum(down(z), 0.0)) for z in (pool(x), _max(x, (1, 2)))]
    x = x * per_channel(nn.sigmoid(raw[0] + raw[1]))
    return x * _Plane(name="place")(_max_and_mean(x, 3), train)


class SRM(nn.Module):
  """Channels gated from mean and deviation, each channel by two weights of its own."""

  channels: int

  @nn.compact
  def __call__(self, x: Float[Array, "b f t c"], train: bool = False) -> Float[Array, "b f t c"]:
    mean = pool(x)
    variance = jnp.mean(jnp.square(x - per_channel(mean)), axis=(1, 2))
    style = jnp.stack([mean, jnp.sqrt(variance + _EPS)], axis=1)
    weight = self.param("weight", normal(0.01), (2, self.channels))
    raw = jnp.sum(style * weight[None], axis=1)
    return x * per_channel(nn.sigmoid(BatchNorm(self.channels, name="norm")(raw, train)))


class GC(nn.Module):
  """An attention-weighted mean over all places, transformed and added everywhere."""

  channels: int

  @nn.compact
  def __call__(self, x: Float[Array, "b f t c"], train: bool = False) -> Float[Array, "b f t c"]:
    score = Linear(self.channels, 1, name="score")(x)
    share = nn.softmax(score.reshape(x.shape[0], -1), axis=-1).reshape(score.shape)
    context = jnp.sum(x * share, axis=(1, 2))
    squeezed = max(8, self.channels // REDUCTION)
    hidden = Linear(self.channels, squeezed, name="down")(context)
    mean = jnp.mean(hidden, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(hidden - mean), axis=-1, keepdims=True)
    scale = self.param("scale", nn.initializers.ones, (squeezed,))
    bias = self.param("bias", nn.initializers.zeros, (squeezed,))
    hidden = (hidden - mean) * jax.lax.rsqrt(variance + _EPS) * scale[None] + bias[None]
    added = Linear(squeezed, self.channels, name="up")(jnp.maximum(hidden, 0.0))
    return x + per_channel(added)


class Triplet(nn.Module):
  """Gates over (frequency, time), (channel, time) and (frequency, channel), averaged."""

  channels: int

  @nn.compact
  def __call__(self, x: Float[Array, "b f t c"], train: bool = False) -> Float[Array, "b f t c"]:
    total = jnp.zeros_like(x)
    for axis, name in ((3, "frequency_time"), (1, "time_channel"), (2, "frequency_channel")):
      total = total + x * jnp.moveaxis(_Plane(name=name)(_max_and_mean(x, axis), train), 3, axis)
    return total * (1.0 / 3.0)


class GRN(nn.Module):
  """Channels compete by their energy over all places; starts as the identity."""

  channels: int

  @nn.compact
  def __call__(self, x: Float[Array, "b f t c"], train: bool = False) -> Float[Array, "b f t c"]:
    # The square root has no derivative at a silent channel; a floor far below float32 noise helps.
    energy = jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2)) + _GRN_EPS**2)
    share = energy / (jnp.mean(energy, axis=-1, keepdims=True) + _GRN_EPS)
    gamma = self.param("gamma", nn.initializers.zeros, (self.channels,))
    beta = self.param("beta", nn.initializers.zeros, (self.channels,))
    return x + x * per_channel(share * gamma[None]) + per_channel(beta)


class _Plane(nn.Module):
  """A 7 x 7 convolution of two maps to one, norm, sigmoid: [b, m, n, 2] -> [b, m, n, 1]."""

  @nn.compact
  def __call__(self, x: Float[Array, "b m n 2"], train: bool) -> Float[Array, "b m n 1"]:
    kernel = self.param("kernel", kaiming_fan_out(49), (7, 7, 2, 1))
    y = jax.lax.conv_general_dilated(
      x,
      kernel,
      (1, 1),
      ((3, 3), (3, 3)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=PRECISION,
    )
    return nn.sigmoid(BatchNorm(1, name="norm")(y, train))


def _max_and_mean(x: Float[Array, "b f t c"], axis: int) -> Float[Array, "b m n 2"]:
  """Maximum and mean along one axis, the other two kept in order."""
  return jnp.stack([_max(x, axis), jnp.mean(x, axis=axis)], axis=-1)


def _max(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
  # The derivative looks for the places equal to the maximum, so all must be computed only once:
  # the barrier keeps XLA from doing so again with another rounding.
  return jnp.max(jax.lax.optimization_barrier(x), axis=axis)


ATTENTIONS: dict[str, type[nn.Module]] = {
  "triplet": Triplet,
  "srm": SRM,
  "grn": GRN,
  "se": SE,
  "cbam": CBAM,
  "gc": GC,
}
