"""Gain, roll and polarity of waves on the device, as jnp functions of a key.

Every clip draws its own. Sources: reference text of MN and DyMN, section 10.1, for whole decibels
and short rolls of every clip; reference text of the weakly supervised taggers, section 3, for
`augment_half`, each of whose changes meets half of the clips.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

ROLL_SAMPLES = 4000  # 125 ms at 32 kHz
GAIN_DECIBELS = 12
HALF = 0.5  # of clips, and of a clip's length
HALF_DECIBELS = (-18.0, 6.0)


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


def augment_half(
  wave: Float[Array, "b s"], key: Key[Array, ""], chance: float = HALF
) -> Float[Array, "b s"]:
  """Polarity, gain of -18 to 6 dB and a roll by up to half a clip, each with this chance."""
  keys, rows = jax.random.split(key, 3), wave.shape[0]
  wave = wave * draw_polarity(keys[0], rows, chance)[:, None]
  wave = wave * draw_level(keys[1], rows, chance)[:, None]
  return roll(wave, draw_half_shift(keys[2], rows, wave.shape[1], chance))


def draw_polarity(key: Key[Array, ""], rows: int, chance: float = HALF) -> Float[Array, " b"]:
  """-1 with this chance, else 1."""
  return jnp.where(_used(key, rows, chance), -1.0, 1.0)


def draw_level(
  key: Key[Array, ""],
  rows: int,
  chance: float = HALF,
  decibels: tuple[float, float] = HALF_DECIBELS,
) -> Float[Array, " b"]:
  """With this chance a factor for any decibels between these two, else 1."""
  low, high = decibels
  if not low <= high:
    raise ValueError(f"gain is {low} to {high} dB; give the lower one first")
  for_use, for_level = jax.random.split(key)
  drawn = jax.random.uniform(for_level, (rows,), minval=low, maxval=high)
  return jnp.where(_used(for_use, rows, chance), 10.0 ** (drawn / 20.0), 1.0)


def draw_half_shift(
  key: Key[Array, ""], rows: int, samples: int, chance: float = HALF
) -> Int[Array, " b"]:
  """With this chance samples to roll by, up to half of `samples` either way, else 0."""
  for_use, for_shift = jax.random.split(key)
  drawn = draw_shift(for_shift, rows, int(HALF * samples))
  return jnp.where(_used(for_use, rows, chance), drawn, 0)


def _used(key: Key[Array, ""], rows: int, chance: float) -> jax.Array:
  if not 0 <= chance <= 1:
    raise ValueError(f"the chance of a change is {chance}; it must be from 0 to 1")
  return jax.random.uniform(key, (rows,)) < chance
