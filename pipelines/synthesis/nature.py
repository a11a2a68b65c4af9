"""Nature: rain and birds."""

from __future__ import annotations

import numpy as np

from pipelines.synthesis import parts


def rain(rng: parts.Rng, samples: int, rate: int) -> np.ndarray:
  """Rain: the steady hiss of far drops, and near drops that ring shortly at a few pitches."""
  hiss = parts.ring(parts.noise(rng, samples), parts.log_uniform(rng, 800, 5000), 4000, rate)
  out = np.float32(parts.log_uniform(rng, 0.01, 0.3)) * hiss
  density = parts.log_uniform(rng, 4, 100)  # near drops per second and pitch
  for pitch in parts.log_uniform(rng, 500, 7000, 4):
    drops = np.zeros(samples, np.float32)
    where = rng.integers(samples, size=rng.poisson(density * samples / rate))
    drops[where] = parts.log_uniform(rng, 1.0, 20.0, where.size)
    # A trace of the hiss keeps the filter's memory from decaying into slow denormal numbers.
    out += parts.ring(drops + np.float32(1e-4) * hiss, pitch, rng.uniform(100, 600), rate)
  return out * (1 + np.float32(0.2) * parts.contour(rng, samples, rate, 1.0))


def bird(rng: parts.Rng, samples: int, rate: int) -> np.ndarray:
  """Bird song: phrases that repeat a motif of short whistled sweeps, with silence between."""
  base = parts.log_uniform(rng, 900, 4000)
  motif = [
    whistle(rng, rate, base * 2 ** rng.uniform(-0.5, 0.7)) for _ in range(rng.integers(1, 5))
  ]
  rest, repeats = int(rng.uniform(0.01, 0.08) * rate), int(rng.integers(1, 6))
  out = np.zeros(samples, np.float32)
  for at in parts.onsets(rng, samples, rate, parts.log_uniform(rng, 0.7, 2.5), 0.4):
    for note in motif * repeats:
      parts.add(out, at, note)
      at += note.size + rest
  return out


def whistle(rng: parts.Rng, rate: int, pitch: float) -> np.ndarray:
  """One swept whistle of 30 to 150 ms around `pitch` Hz, f32[n]."""
  seconds = rng.uniform(0.03, 0.15)
  x = np.linspace(-1, 1, int(seconds * rate))
  octaves = rng.uniform(-0.4, 0.4) * x + rng.uniform(-0.3, 0.3) * (1 - x**2)
  phase = parts.cycles(np.minimum(pitch * 2**octaves, 0.45 * rate), rate)
  return parts.fade(parts.sine(phase), rate, 0.3 * seconds, 0.4 * seconds)
