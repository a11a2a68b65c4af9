"""Musical notes: plucked and bowed strings, struck bars, bells."""

from __future__ import annotations

import numpy as np
import scipy

from pipelines.synthesis import parts

SCALE = np.array([0, 2, 4, 7, 9])  # semitones of a pentatonic: any melody over it sounds plausible
MOST_NOTES = 10  # different notes of one clip; a longer melody comes back to them
# Partials of a bar free at both ends, and of a bell (hum, prime, tierce, quint, nominal and above).
BAR_PARTIALS = np.array([1.0, 2.756, 5.404, 8.933])
BELL_PARTIALS = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.51, 2.66, 3.01, 4.1])


def melody(rng: parts.Rng, low: parts.Real, high: parts.Real) -> np.ndarray:
  """Frequencies in Hz of `MOST_NOTES` notes: a pentatonic from a random root in [low, high]."""
  steps = np.cumsum(rng.integers(-2, 3, size=MOST_NOTES)) % (2 * len(SCALE))
  semitones = SCALE[steps % len(SCALE)] + 12 * (steps // len(SCALE))
  return parts.log_uniform(rng, low, high) * 2.0 ** (semitones / 12)


def play(rng: parts.Rng, samples: int, at: np.ndarray, notes: list[np.ndarray]) -> np.ndarray:
  """The notes in turn at the given samples, each time with another loudness, f32[samples]."""
  out = np.zeros(samples, np.float32)
  for k, (start, loudness) in enumerate(zip(at, rng.uniform(0.4, 1, at.size), strict=True)):
    parts.add(out, start, np.float32(loudness) * notes[k % len(notes)])
  return out


def plucked(rng: parts.Rng, samples: int, rate: int) -> np.ndarray:
  """Plucked string notes: a burst of noise that circulates in a damped delay line."""
  at = parts.onsets(rng, samples, rate, parts.log_uniform(rng, 0.18, 0.9), 0.3)
  pitch = melody(rng, 70, 350)[: at.size, None]
  t60, brightness = parts.log_uniform(rng, 0.3, 0.85), rng.uniform(0.5, 0.95)
  delay = rate / pitch - (1 - brightness)
  excitation = np.zeros(
    (len(pitch), scipy.fft.next_fast_len(int(0.9 * rate), real=True)), np.float32
  )
  for row, period in zip(excitation, delay[:, 0].astype(int), strict=True):
    row[:period] = parts.noise(rng, period)
  notes = string(excitation, delay, 10 ** (-3 / (t60 * pitch)), brightness)
  return play(rng, samples, at, [parts.fade(note, rate, 0.0, 0.05) for note in notes])


def string(
  excitation: np.ndarray, delay: np.ndarray, loss: np.ndarray, brightness: float
) -> np.ndarray:
  """The string of Karplus and Strong (1983).

  y[n] = x[n] + loss (b y[n - delay] + (1 - b) y[n - delay - 1])

  x f32[notes, n] -> y f32[notes, n], with delay and loss f64[notes, 1] and b the brightness. Solved
  in the frequency domain for all notes at once, as x / (1 - loop): exact for any fractional delay,
  without a loop over samples. The sound has to die away within n samples, for its end wraps round
  to the start.
  """
  size = excitation.shape[1]
  turns = np.arange(size // 2 + 1) / size  # cycles per sample
  # Two-point average: high partials die first.
  damping = (brightness + (1 - brightness) * np.exp(-2j * np.pi * turns)).astype(np.complex64)
  angle = np.float32(-2 * np.pi) * parts.wrap(turns * delay)
  loop = loss.astype(np.float32) * damping * (np.cos(angle) + 1j * np.sin(angle))
  return scipy.fft.irfft(scipy.fft.rfft(excitation) / (1 - loop), size)


def bowed(rng: parts.Rng, samples: int, rate: int) -> np.ndarray:
  """Bowed string notes: a sawtooth with vibrato that swells slowly and stops at once.

  Seen through averages over time it resembles a plucked string played backwards: only order in time
  tells.
  """
  gap = parts.log_uniform(rng, 0.25, 1.2)
  at = parts.onsets(rng, samples, rate, gap, 0.3)
  vibrato, swell = rng.uniform(0, 0.012), rng.uniform(0.4, 2)
  n = int(min(gap, 0.9) * rate)
  envelope = parts.fade(parts.decay(n, rate, swell * n / rate)[::-1].copy(), rate, 0.05, 0.02)
  wobble = 1 + vibrato * parts.sine(5.5 * np.arange(n) / rate + rng.random())
  tones = [
    parts.wrap(parts.cycles(pitch * wobble, rate)) * envelope
    for pitch in melody(rng, 70, 350)[: at.size]
  ]
  out = play(rng, samples, at, tones)
  body = parts.log_uniform(rng, 300, 4000)
  return out + 1.5 * parts.ring(out, body, 0.4 * body, rate)


def struck(rng: parts.Rng, samples: int, rate: int) -> np.ndarray:
  """Struck wooden or metal bars: a few modes, short decay, in melodies or repeated tones."""
  at = parts.onsets(rng, samples, rate, parts.log_uniform(rng, 0.15, 0.8), 0.3)
  t60 = parts.log_uniform(rng, 0.12, 0.7) / np.sqrt(BAR_PARTIALS)
  weights = rng.uniform(0.2, 1, BAR_PARTIALS.size) / np.arange(1, BAR_PARTIALS.size + 1)
  n = int(1.2 * t60[0] * rate) + 1
  bars = [
    parts.modes(n, rate, pitch * BAR_PARTIALS, weights, t60) for pitch in melody(rng, 150, 900)
  ]
  return play(rng, samples, at, bars)


def bell(rng: parts.Rng, samples: int, rate: int) -> np.ndarray:
  """Bells: inharmonic partials, each split into a slowly beating pair, long decay, few strokes."""
  prime = parts.log_uniform(rng, 120, 900)
  partials = prime * BELL_PARTIALS * (1 + 0.01 * rng.standard_normal(BELL_PARTIALS.size))
  pairs = np.concatenate([partials, partials + rng.uniform(0.3, 4, partials.size)])
  t60 = np.tile(parts.log_uniform(rng, 1.0, 5.0) / np.sqrt(BELL_PARTIALS), 2)
  n = min(samples, int(1.5 * t60[0] * rate))
  bells = [
    parts.modes(n, rate, tuning * pairs, rng.uniform(0.1, 1, pairs.size), t60)
    for tuning in rng.choice([0.75, 0.8, 1, 1, 1.125, 1.5], size=rng.integers(1, 4))
  ]
  at = parts.onsets(rng, samples, rate, parts.log_uniform(rng, 0.6, 2.5), 0.2)
  return play(rng, samples, at, bells)
