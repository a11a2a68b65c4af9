"""Machines and people's noises: engines, sirens, knocking."""

from __future__ import annotations

import numpy as np

from pipelines.synthesis import parts


def engine(rng: parts.Rng, samples: int, rate: int) -> np.ndarray:
  """A piston engine: unequal cylinders fire in turn through exhaust resonances; speed varies."""
  cylinders = int(rng.choice([1, 2, 3, 4, 6]))
  firing = parts.log_uniform(rng, 14, 110)
  octaves = rng.uniform(0.02, 0.5) * parts.contour(rng, samples, rate, rng.uniform(0.2, 1.0))
  phase = parts.cycles(np.clip(firing * np.exp2(octaves), 5, 300), rate)
  count = phase.astype(np.int64)
  fired = np.flatnonzero(np.diff(count, prepend=-1))
  strength = rng.uniform(0.5, 1, cylinders)
  body = parts.log_uniform(rng, 0.005, 0.05) * parts.noise(rng, samples)
  body[fired] += strength[count[fired] % cylinders] * (1 + 0.1 * rng.standard_normal(fired.size))
  out = np.zeros(samples, np.float32)
  for low, high in ((60, 250), (250, 900), (900, 3000)):
    frequency = parts.log_uniform(rng, low, high)
    out += rng.uniform(0.3, 1) * parts.ring(body, frequency, 0.4 * frequency, rate)
  return out


def siren(rng: parts.Rng, samples: int, rate: int) -> np.ndarray:
  """Sirens and alarms: a tone with harmonics that wails, sweeps or alternates without pause."""
  position = np.arange(samples) / (rate * parts.log_uniform(rng, 0.25, 4.0)) + rng.random()
  kind = rng.integers(4)
  shape: np.ndarray
  if kind == 0:  # wail
    shape = 0.5 + 0.5 * parts.sine(position)
  elif kind == 1:  # two tones
    shape = np.clip(0.5 + 20 * (np.abs(parts.wrap(position)) - 0.25), 0, 1)
  else:  # rising or falling
    shape = 0.5 + (-1) ** kind * parts.wrap(position)
  octaves = np.float32(rng.uniform(0.3, 1.2)) * shape
  phase = parts.cycles(np.float32(parts.log_uniform(rng, 250, 1400)) * np.exp2(octaves), rate)
  # Modulating the phase by the tone itself yields harmonics, the stronger the deeper.
  return parts.sine(phase + rng.uniform(0, 0.2) * parts.sine(phase))


def knock(rng: parts.Rng, samples: int, rate: int) -> np.ndarray:
  """Knocking, footsteps, hammering: groups of short thumps with a regular beat inside a group."""
  beat, thumps = parts.log_uniform(rng, 0.12, 0.6), int(rng.integers(2, 7))
  frequency, t60 = parts.log_uniform(rng, 120, 2500), parts.log_uniform(rng, 0.04, 0.25)
  n = int(1.2 * t60 * rate) + 1
  envelope = parts.decay(n, rate, t60)
  gap = beat * thumps + parts.log_uniform(rng, 0.1, 1.0)
  out = np.zeros(samples, np.float32)
  for group in parts.onsets(rng, samples, rate, gap, 0.1):
    for k in range(thumps):
      late = 0.04 * rng.random() * beat
      thump = parts.ring(parts.noise(rng, n) * envelope, frequency, 0.7 * frequency, rate)
      parts.add(out, group + int((k * beat + late) * rate), thump)
  return out
