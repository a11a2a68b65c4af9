"""Gain and roll of waves on the device, as jnp functions of a key.

Source: reference text of MN and DyMN, section 10.1; every clip draws its own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

ROLL_SAMPLES = 4000  # 125 ms at 32 kHz
GAIN_DECIBELS = 12


def draw_gain(key: Key[Array, ""], rows: int, decibels: int = GAIN_DECIBELS) -> Float[Array, " b"]:
  """Factors for whole decibels from -decibels to decibels - 1, all equally likely; 0 is off."""
  if decibels < 0:
    raise ValueError(f"gain is {decibels} dB; it must be 0 (off) or more")
  if decibels == 0:
    return jnp.ones((rows,))
  drawn = jax.random.randint(key, (rows,), -decibels, decibels)
  return 10.0 ** (drawn.astype(jnp.float32) / 20.0)


def draw_shift(key: Key[Array, ""], rows: int, samples: int = ROLL_SAMPLES) -> Int[Array, " b"]:
  """Samples to roll by, from -samples to samples, both included; 0 is off."""
  if samples < 0:
    raise ValueError(f"roll is {samples} samples; it must be 0 (off) or more")
  return jax.random.randint(key, (rows,), -samples, samples + 1)


def roll(wave: Float[Array, "b s"], shift: Int[Array, " b"]) -> Float[Array, "b s"]:
  """Each clip moved by its shift; what leaves at one end comes back at the other."""
  # Two copies and one slice per clip: a gather by index takes XLA far longer.
  samples = wave.shape[1]
  start = jnp.mod(-shift, samples)
  twice = jnp.concatenate([wave, wave], axis=1)
  return jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (at,), (samples,)))(twice, start)
