"""Voices: glottal pulses that excite gliding vowel formants, with fricatives and stops between.

Every glottal pulse starts one damped sinusoid per formant (formant-wave synthesis, after Rodet
1984), so pitch and formants can move from pulse to pulse at no cost. Formant frequencies are
rounded textbook averages. Speakers differ in pitch, length of the vocal tract, breathiness, timbre
and tempo.
"""

from __future__ import annotations

import numpy as np

from pipelines.synthesis import parts

# First three formants in Hz.
VOWELS = np.array(
  [
    [280, 2250, 2900],  # as in "see"
    [400, 1950, 2550],
    [650, 1700, 2400],  # as in "bed"
    [730, 1100, 2450],  # as in "father"
    [570, 850, 2400],
    [440, 1000, 2250],
    [310, 870, 2250],  # as in "blue"
    [500, 1500, 2500],  # neutral
  ]
)
BANDWIDTHS = (80.0, 100.0, 140.0)
GRAIN_SECONDS = 0.018


def voice(rng: parts.Rng, samples: int, rate: int) -> np.ndarray:
  """Babble of one speaker: words of one to four syllables with short pauses."""
  pitch = parts.log_uniform(rng, 85, 270)
  tract = np.clip(0.9 + 0.12 * np.log2(pitch / 120) + 0.06 * rng.standard_normal(), 0.8, 1.25)
  tempo, weights = parts.log_uniform(rng, 0.7, 1.5), np.array([1, *rng.uniform(0.1, 0.9, 2)])
  out = np.zeros(samples, np.float32)
  pulses = []  # one (at, strength, formants) table per syllable
  at = int(rng.random() * 0.25 * min(rate, samples))
  while at < samples:
    for _ in range(rng.integers(1, 5)):
      if rng.random() < 0.7:
        sound = consonant(rng, rate, tract)
        parts.add(out, at, sound)
        at += sound.size
      seconds = parts.log_uniform(rng, 0.09, 0.3) / tempo
      pulses.append(
        syllable(rng, at, seconds, rate, pitch * 2 ** (0.2 * rng.standard_normal()), tract)
      )
      at += int(seconds * rate)
    at += int(parts.log_uniform(rng, 0.08, 0.6) / tempo * rate)
  voiced = formant_waves(np.concatenate(pulses), weights, samples, rate)
  breath = parts.log_uniform(rng, 0.003, 0.1) * np.abs(voiced) * parts.noise(rng, samples)
  return out + voiced + breath


def syllable(
  rng: parts.Rng, at: int, seconds: float, rate: int, pitch: float, tract: float
) -> np.ndarray:
  """Glottal pulses of a vowel that glides to another, f64[pulses, 5].

  Columns: sample at which the pulse falls, strength, three formants in Hz.
  """
  x = np.linspace(0, 1, max(2, int(seconds * pitch)))
  bend = np.maximum(
    1 + 0.15 * rng.standard_normal() * (x - 0.5) + 0.01 * rng.standard_normal(x.size), 0.5
  )
  when = np.cumsum(1 / (pitch * bend))
  start, end = VOWELS[rng.integers(len(VOWELS), size=2)] * tract
  formants = start + (end - start) * np.minimum(1.3 * x, 1)[:, None]
  strength = np.minimum(1, np.minimum(8 * x + 0.1, 4 * (1 - x) + 0.1))
  return np.column_stack([at + when * rate, strength, formants])


def formant_waves(pulses: np.ndarray, weights: np.ndarray, samples: int, rate: int) -> np.ndarray:
  """Adds up the damped sinusoids that the pulses start, f32[samples]."""
  n = int(GRAIN_SECONDS * rate)
  pulses = pulses[pulses[:, 0] < samples - n]
  time = np.arange(n, dtype=np.float32) / np.float32(rate)
  grains = np.zeros((len(pulses), n), np.float32)
  for formant, bandwidth, weight in zip(pulses[:, 2:].T, BANDWIDTHS, weights, strict=True):
    envelope = weight * np.exp(-np.pi * bandwidth * time)
    angle = np.float32(2 * np.pi) * formant.astype(np.float32)
    grains += envelope.astype(np.float32) * np.sin(angle[:, None] * time)
  grains *= pulses[:, 1:2].astype(np.float32)
  where = pulses[:, :1].astype(np.int64) + np.arange(n)
  return np.bincount(where.reshape(-1), grains.reshape(-1), samples).astype(np.float32)


def consonant(rng: parts.Rng, rate: int, tract: float) -> np.ndarray:
  """A fricative (longer, high noise) or a stop (closure, then a burst)."""
  centre = parts.log_uniform(rng, 1200, 6500) * tract
  if rng.random() < 0.5:
    hiss = parts.ring(parts.noise(rng, int(rng.uniform(0.05, 0.14) * rate)), centre, 1500, rate)
    return 0.6 * parts.fade(hiss, rate, 0.02, 0.02)
  burst = parts.ring(parts.noise(rng, int(0.03 * rate)), centre, 1000, rate)
  burst *= parts.decay(burst.size, rate, 0.04)
  return np.concatenate([np.zeros(int(rng.uniform(0.02, 0.06) * rate), np.float32), burst])
