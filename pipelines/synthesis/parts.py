"""Parts shared by every instrument: noise, events, envelopes, oscillators, resonances.

Waves are float32 NumPy arrays of any scale: `room.finish` sets the level at the end. Frequencies
are in Hz and durations in seconds; `samples`, `n` and `at` count samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # signal takes seconds to import, so it is reached where it is used

Rng = np.random.Generator
Real = float | int  # plain numbers: draws may come as either
Index = int | np.integer
LN_60_DB = 6.908  # natural logarithm of the amplitude ratio 1000


def log_uniform(rng: Rng, low: Real, high: Real, size: int | None = None) -> Any:
  """Draws from [low, high] so that every octave is equally likely."""
  return low * (high / low) ** rng.random(size)


def noise(rng: Rng, n: Index) -> np.ndarray:
  """White noise, uniform in [-1, 1]: as flat as the normal kind, at a third of the price."""
  return rng.random(n, np.float32) * np.float32(2) - np.float32(1)


def add(out: np.ndarray, at: Index, event: np.ndarray) -> None:
  """Adds `event` to `out` in place from sample `at`; what hangs over the end is cut."""
  stop = min(out.size, at + event.size)
  if at < stop:
    out[at:stop] += event[: stop - at]


def onsets(rng: Rng, samples: int, rate: int, gap_seconds: Real, jitter: Real) -> np.ndarray:
  """Sample positions of events about `gap_seconds` apart: jitter 0 is a clock, 1 is nearly random.

  There is always at least one event, and the first falls into the first half of the clip.
  """
  count = int(np.ceil(samples / rate / gap_seconds / max(1 - jitter, 0.2))) + 1
  gaps = gap_seconds * (1 + jitter * (rng.random(count) * 2 - 1))
  first = rng.random() * min(gap_seconds, 0.5 * samples / rate)
  at = ((first + np.cumsum(gaps) - gaps[0]) * rate).astype(np.int64)
  return at[at < samples]


def decay(n: int, rate: int, t60_seconds: Real) -> np.ndarray:
  """Exponential envelope that starts at 1 and has fallen by 60 dB after `t60_seconds`."""
  return np.exp(np.arange(n, dtype=np.float32) * np.float32(-LN_60_DB / (t60_seconds * rate)))


def fade(wave: np.ndarray, rate: int, attack_seconds: Real, release_seconds: Real) -> np.ndarray:
  """Applies raised-cosine edges in place and returns the wave; each takes half of it at most."""
  for seconds, part in ((attack_seconds, wave), (release_seconds, wave[::-1])):
    n = min(int(seconds * rate), wave.size // 2)
    part[:n] *= (0.5 - 0.5 * np.cos(np.pi * (np.arange(n) + 0.5) / max(n, 1))).astype(np.float32)
  return wave


def ramp(points: np.ndarray, n: int) -> np.ndarray:
  """Joins evenly spaced control points by straight lines, f32[n]."""
  step = -(-n // (len(points) - 1))
  fraction = np.arange(step, dtype=np.float32) / np.float32(step)
  points = np.asarray(points, np.float32)
  return (points[:-1, None] + np.diff(points)[:, None] * fraction).reshape(-1)[:n]


def contour(rng: Rng, n: int, rate: int, points_per_second: Real) -> np.ndarray:
  """A slow random curve of standard deviation about 1, f32[n]."""
  return ramp(rng.standard_normal(int(n / rate * points_per_second) + 2), n)


def cycles(frequency: np.ndarray, rate: int) -> np.ndarray:
  """Phase in cycles of an oscillator of the given frequency per sample (f64: it grows large)."""
  return np.cumsum(frequency, dtype=np.float64) * (1 / rate)


def wrap(phase: np.ndarray) -> np.ndarray:
  """Phase in cycles reduced to [-0.5, 0.5], f32."""
  return (phase - np.rint(phase)).astype(np.float32)


def sine(phase: np.ndarray) -> np.ndarray:
  """sin(2 pi phase), f32: the reduction comes first, so float32 is exact enough and fast."""
  return np.sin(np.float32(2 * np.pi) * wrap(phase))


def ring(wave: np.ndarray, frequency: Real, bandwidth: Real, rate: int) -> np.ndarray:
  """The wave through one resonance with gain about 1 at its peak (a band-pass, silent at 0 Hz)."""
  radius = np.exp(-np.pi * bandwidth / rate)
  angle = 2 * np.pi * min(frequency, 0.47 * rate) / rate
  gain = (1 - radius**2) / 2
  top, bottom = [gain, 0, -gain], [1, -2 * radius * np.cos(angle), radius**2]
  return scipy.signal.lfilter(np.array(top, np.float32), np.array(bottom, np.float32), wave)


def modes(
  n: int,
  rate: int,
  frequencies: np.ndarray,
  amplitudes: np.ndarray,
  t60_seconds: np.ndarray,
) -> np.ndarray:
  """Sum of decaying sinusoids (modal synthesis), f32[n]; none above 0.45 of the rate."""
  keep = frequencies < 0.45 * rate
  poles = (-LN_60_DB / t60_seconds + 2j * np.pi * frequencies)[keep] / rate
  # exp(pole t) with t = coarse + fine is an outer product: far cheaper than exp for every sample
  # and mode.
  fine = np.exp(np.outer(poles, np.arange(128))).astype(np.complex64)
  coarse = (np.exp(np.outer(np.arange(0, n, 128), poles)) * amplitudes[keep]).astype(np.complex64)
  return (coarse.real @ fine.imag + coarse.imag @ fine.real).reshape(-1)[:n]
