"""What happens between an instrument and a recording: colour, echo, background, level.

These are drawn without regard to the class. They disturb the average spectrum and the loudness on
purpose: what stays with a class is its structure in time and frequency.
"""

from __future__ import annotations

import numpy as np
import scipy

from pipelines.synthesis import parts

COLOUR_POINTS_HZ = np.geomspace(60, 8000, 7)
COLOUR_DB = 4.0  # standard deviation of the gain at each point
TILT_DB = 2.0  # standard deviation of the tilt, per octave
SIGNAL_TO_NOISE_DB = (15.0, 45.0)
PEAK_DB = (-30.0, -1.0)
ECHO_SHARE = 0.5  # of the clips
ECHO_SECONDS = 0.6  # length of the echo kept
ECHO_T60_SECONDS = (0.15, 1.0)


def finish(rng: parts.Rng, wave: np.ndarray, rate: int) -> np.ndarray:
  """Adds colour, echo and background and sets the peak: f32[s] of any scale -> [-1, 1]."""
  samples, tail = wave.size, int(ECHO_SECONDS * rate)
  size = scipy.fft.next_fast_len(samples + tail, real=True)
  response = colour(rng, size // 2 + 1, rate)
  if rng.random() < ECHO_SHARE:
    response = response * scipy.fft.rfft(echo(rng, tail, rate), size)
  wave = scipy.fft.irfft(scipy.fft.rfft(wave, size) * response, size)[:samples]
  hiss = background(rng, samples)
  noise_to_signal = 10 ** (-rng.uniform(*SIGNAL_TO_NOISE_DB) / 20)
  wave += hiss * np.float32(noise_to_signal * _norm(wave) / max(_norm(hiss), 1e-12))
  wave *= np.float32(10 ** (rng.uniform(*PEAK_DB) / 20) / max(float(np.abs(wave).max()), 1e-12))
  return wave


def colour(rng: parts.Rng, bins: int, rate: int) -> np.ndarray:
  """A smooth random gain over frequency (microphone, distance), f32[bins] up to Nyquist."""
  points = COLOUR_DB * rng.standard_normal(COLOUR_POINTS_HZ.size)
  points += TILT_DB * rng.standard_normal() * np.log2(COLOUR_POINTS_HZ / 700)
  # Logarithm and power on 512 points only: the curve is smooth, the FFT is long.
  grid = np.log(np.maximum(np.linspace(0, rate / 2, 512), 30))
  return parts.ramp(10 ** (np.interp(grid, np.log(COLOUR_POINTS_HZ), points) / 20), bins)


def echo(rng: parts.Rng, n: int, rate: int) -> np.ndarray:
  """Impulse response of a room: the direct sound and a decaying noise tail, f32[n]."""
  response = parts.noise(rng, n) * parts.decay(n, rate, parts.log_uniform(rng, *ECHO_T60_SECONDS))
  response *= np.float32(parts.log_uniform(rng, 0.1, 1.0) / _norm(response))
  response[0] = 1
  return response


def background(rng: parts.Rng, n: int) -> np.ndarray:
  """Steady noise with a random colour between brown and blue, f32[n]."""
  pole = rng.uniform(-0.5, 0.97)
  top, bottom = np.array([1 - abs(pole)], np.float32), np.array([1, -pole], np.float32)
  return scipy.signal.lfilter(top, bottom, parts.noise(rng, n))


def _norm(wave: np.ndarray) -> float:
  return float(np.sqrt(np.dot(wave, wave)))
