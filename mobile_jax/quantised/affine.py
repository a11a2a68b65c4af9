"""Affine quantisation: value = scale (q - zero), its ranges, and its simulation in float32.

Source: reference text of the scene models, section 8; Jacob et al. 2018, "Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference", arXiv 1712.05877.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Levels(NamedTuple):
  """The least and the greatest integer."""

  low: int
  high: int


# Ranges are measured for seven bits, which leaves products of 8-bit CPU instructions room; what is
# stored has eight, so integer arithmetic goes on up to 255 where its simulation stops at 127.
ACTIVATIONS = Levels(0, 127)
STORED = Levels(0, 255)
WEIGHTS = Levels(-128, 127)
# Of what is always 0: any would do, this one is PyTorch's.
_SCALE_OF_NOTHING = 0.1


class Affine(NamedTuple):
  """How integers stand for values. Of a tensor, or of each of its output channels (last axis)."""

  scale: Float[Array, "*channels"]
  zero: Int[Array, "*channels"]

  def like(self, x: jax.Array) -> Affine:
    """With the axes of a tensor whose last one has the channels."""
    if self.scale.ndim != 1:
      return self
    wide = (1,) * (x.ndim - 1) + self.scale.shape
    return Affine(self.scale.reshape(wide), self.zero.reshape(wide))


def activation_affine(low: Float[Array, "*points"], high: Float[Array, "*points"]) -> Affine:
  """Of activations from low to high, 0 included, in 0..127.

  A range without extent has the scale 0.1.
  """
  low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
  scale = _usable((high - low) / (ACTIVATIONS.high - ACTIVATIONS.low))
  zero = jnp.clip(jnp.round(-low / scale), *ACTIVATIONS).astype(jnp.int32)
  return Affine(scale, zero)


def weight_affine(kernel: Float[Array, "*inputs d"]) -> Affine:
  """Of each output channel of a kernel, in -128..127.

  A channel with both signs is symmetric: zero 0, scale max(-min / 128, max / 127). One with a
  single sign is affine from 0 on: scale of its extent by 255, zero 127 (negative) or -128
  (positive). One without any weight, denormal ones among them, has scale 0.1 and zero 127.
  """
  axes = tuple(range(kernel.ndim - 1))
  low, high = jnp.min(kernel, axis=axes), jnp.max(kernel, axis=axes)
  both = (low < 0) & (high > 0)
  steps = WEIGHTS.high - WEIGHTS.low
  extent = (jnp.maximum(high, 0.0) - jnp.minimum(low, 0.0)) / steps
  scale = jnp.where(both, jnp.maximum(low / WEIGHTS.low, high / WEIGHTS.high), extent)
  positive = (high > 0) & _is_usable(scale)
  one_sign = jnp.where(positive, WEIGHTS.low, WEIGHTS.high)
  zero = jnp.where(both & _is_usable(scale), 0, one_sign).astype(jnp.int32)
  return Affine(_usable(scale), zero)


def symmetric_affine(kernel: Float[Array, "*inputs d"]) -> Affine:
  """Of each output channel: scale max |w| / 127.5, at least float32's epsilon, and zero 0.

  What PyTorch's conversion takes of the same ranges, whatever the simulation trained with: a
  channel with one sign loses a bit.
  """
  most = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
  scale = jnp.maximum(most / 127.5, jnp.finfo(jnp.float32).eps)
  return Affine(scale, jnp.zeros(scale.shape, jnp.int32))


def _is_usable(scale: jax.Array) -> jax.Array:
  # CPUs and accelerators take denormal numbers for 0, and so does this comparison.
  return scale >= jnp.finfo(jnp.float32).tiny


def _usable(scale: jax.Array) -> jax.Array:
  return jnp.where(_is_usable(scale), scale, _SCALE_OF_NOTHING)


def quantise(x: Float[Array, "*axes"], affine: Affine, levels: Levels) -> Int[Array, "*axes"]:
  """The nearest integers, ties to even, within the levels; int32."""
  return jnp.clip(_nearest(x, affine), *levels).astype(jnp.int32)


def dequantise(q: Int[Array, "*axes"], affine: Affine) -> Float[Array, "*axes"]:
  """What integers stand for."""
  wide = affine.like(q)
  return (q - wide.zero).astype(jnp.float32) * wide.scale


def fake_quantise(
  x: Float[Array, "*axes"], affine: Affine, levels: Levels
) -> Float[Array, "*axes"]:
  """Quantised and back, in float32; the gradient is that of x within the levels and 0 beyond."""
  wide = Affine(*jax.lax.stop_gradient(affine.like(x)))
  q = _nearest(jax.lax.stop_gradient(x), wide)
  inside = (q >= levels.low) & (q <= levels.high)
  y = (jnp.clip(q, *levels) - wide.zero) * wide.scale
  # Exactly y, with the slope of x.
  return y + jnp.where(inside, x - jax.lax.stop_gradient(x), 0.0)


def _nearest(x: jax.Array, affine: Affine) -> jax.Array:
  """Unbounded, as float32. By the inverse scale, as PyTorch has it: ties fall alike."""
  wide = affine.like(x)
  return jnp.round(x * (1.0 / wide.scale)) + wide.zero
