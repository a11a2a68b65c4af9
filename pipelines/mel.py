"""Log-mel spectrograms on the device, in jnp alone (this file never imports TensorFlow or librosa).

    wave f32[b, s] -> frames f32[b, frames, n_fft] -> power f32[b, frames, bins]
                   -> mel f32[b, f, frames] -> dB

The default `MelConfig` is Dasheng's front end (arXiv 2406.06992; reference text, section 1): 16
kHz, 512-point periodic Hann window, hop 160, centred frames with reflect padding, power spectrum,
64 HTK triangles without area normalisation, decibels with a floor of -100 dB, and everything below
(maximum - 120 dB) raised to that level. It is also that of the weakly supervised taggers (their
reference text, section 1).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Clamp = Literal["batch", "sample", "none"]
Transform = Literal["auto", "fft", "matmul"]


@dataclasses.dataclass(frozen=True)
class MelConfig:
  """A log-mel front end. Frequencies in Hz, lengths in samples, levels in dB."""

  sample_rate: int = 16_000
  n_fft: int = 512
  hop_length: int = 160
  mel_bins: int = 64
  low_hz: float = 0.0
  high_hz: float = 8_000.0
  power_floor: float = 1e-10
  top_db: float = 120.0
  # Which maximum the clamp looks at. "batch" is what the released code does: a quiet clip's
  # features then depend on the loudest clip beside it. "sample" makes every clip independent of its
  # neighbours. Equal for a batch of one.
  clamp: Clamp = "batch"
  # "auto" is the FFT on CPU and GPU and the matrix form on TPU, whose matrix unit outruns its FFT.
  transform: Transform = "auto"

  def __post_init__(self):
    for name in ("sample_rate", "n_fft", "hop_length", "mel_bins", "power_floor", "top_db"):
      if not 0 < getattr(self, name) < math.inf:
        raise ValueError(f"mel.{name} is {getattr(self, name)}; it must be more than 0")
    if self.clamp not in ("batch", "sample", "none"):
      raise ValueError(f"mel.clamp is {self.clamp!r}; choose 'batch', 'sample' or 'none'")
    if self.transform not in ("auto", "fft", "matmul"):
      raise ValueError(f"mel.transform is {self.transform!r}; choose 'auto', 'fft' or 'matmul'")
    if not 0 <= self.low_hz < self.high_hz <= self.sample_rate / 2:
      raise ValueError(
        f"mel band {self.low_hz}..{self.high_hz} Hz must lie within 0..{self.sample_rate / 2} Hz"
      )

  def frames(self, samples: int) -> int:
    """Mel frames of a wave of `samples` samples: one per hop, both ends included."""
    return 1 + samples // self.hop_length

  @property
  def min_samples(self) -> int:
    """Shortest wave that can be reflected at both ends."""
    return self.n_fft // 2 + 1


DASHENG_MEL = MelConfig()


def hann_window(length: int) -> np.ndarray:
  """Periodic Hann window, f32[length], with the rounding of the released front end.

  The released window is the result of float32 arithmetic, up to 2e-7 from the true one. That alone
  moves cells 80 dB below their frame's maximum by 1e-3 dB, so the float32 steps are repeated here
  (the cosine itself in double).
  """
  angle = np.arange(length, dtype=np.float32) * np.float32(2 * np.pi / length)
  cosine = np.cos(angle.astype(np.float64)).astype(np.float32)
  return cosine * np.float32(-0.5) + np.float32(0.5)


def _linspace_float32(start: float, stop: float, count: int) -> np.ndarray:
  """Equally spaced float32 points, each counted from the nearer end, as in the released code."""
  first, last = np.float32(start), np.float32(stop)
  step = np.float64(np.float32((last - first) / np.float32(count - 1)))
  index = np.arange(count)
  # A product in double precision and one rounding are a float32 fused multiply-add, as used there.
  points = np.where(index < count // 2, first + step * index, last - step * (count - 1 - index))
  return points.astype(np.float32)


@functools.cache
def mel_filterbank(cfg: MelConfig) -> np.ndarray:
  """HTK mel triangles, f32[bins, mel_bins], peak 1, straight in Hz, no area normalisation.

  The corner frequencies are equally spaced on m(f) = 2595 log10(1 + f / 700). They are rounded to
  float32 step by step as in the released code: corners computed in double precision shift a narrow
  tone that sits on the foot of a triangle by up to 6e-3 dB.
  """
  single = np.float32

  def to_mel(hz: float) -> float:
    return 2595.0 * math.log10(1.0 + hz / 700.0)

  mel_points = _linspace_float32(to_mel(cfg.low_hz), to_mel(cfg.high_hz), cfg.mel_bins + 2)
  powers = np.power(10.0, (mel_points / single(2595)).astype(np.float64)).astype(single)
  corners = single(700) * (powers - single(1))
  hz = _linspace_float32(0.0, cfg.sample_rate / 2, cfg.n_fft // 2 + 1)[:, None]
  low, centre, high = corners[:-2], corners[1:-1], corners[2:]
  rising = (hz - low) / (centre - low)
  falling = (high - hz) / (high - centre)
  return np.maximum(single(0), np.minimum(rising, falling))


def empty_filters(cfg: MelConfig) -> int:
  """How many mel filters fall between two FFT bins, and so hear nothing: 0 in a sound front end."""
  return int(np.sum(~mel_filterbank(cfg).any(axis=0)))


@functools.cache
def _dft_matrix(n_fft: int) -> np.ndarray:
  """Windowed real DFT as one matrix, f32[n_fft, 2 * bins]: cosine columns, then sine columns."""
  # The angle is reduced modulo n_fft in integers first, so that it stays exact to double precision.
  turns = np.outer(np.arange(n_fft), np.arange(n_fft // 2 + 1)) % n_fft
  angle = 2 * np.pi * turns / n_fft
  matrix = hann_window(n_fft)[:, None] * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
  return matrix.astype(np.float32)


def frame(wave: Float[Array, "b s"], n_fft: int, hop_length: int) -> Float[Array, "b frames n_fft"]:
  """Centred frames with reflect padding; frame t starts at padded sample hop * t."""
  count = 1 + wave.shape[1] // hop_length
  padded = jnp.pad(wave, ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
  # Cut into hops, a frame is a few neighbouring hops side by side, the last one cut short: so all
  # frames together are a few long slices. XLA copies those at full speed; an index gather is slow.
  hops = -(-n_fft // hop_length)
  needed = (count + hops - 1) * hop_length
  padded = jnp.pad(padded, ((0, 0), (0, max(0, needed - padded.shape[1]))))[:, :needed]
  rows = padded.reshape(wave.shape[0], -1, hop_length)
  parts = [rows[:, i : i + count, : n_fft - i * hop_length] for i in range(hops)]
  return jnp.concatenate(parts, axis=-1)


def _power_fft(frames: jax.Array, n_fft: int) -> jax.Array:
  spectrum = jnp.fft.rfft(frames * hann_window(n_fft)[None, None])
  return jnp.square(spectrum.real) + jnp.square(spectrum.imag)


def _power_matmul(frames: jax.Array, n_fft: int) -> jax.Array:
  # HIGHEST keeps true float32 products on TPU and GPU: 80 dB of dynamic range need all 24 bits.
  parts = jnp.matmul(frames, _dft_matrix(n_fft), precision=jax.lax.Precision.HIGHEST)
  cosine, sine = jnp.split(parts, 2, axis=-1)
  return jnp.square(cosine) + jnp.square(sine)


def power_spectrum(
  frames: Float[Array, "b frames n_fft"], transform: Transform = "auto"
) -> Float[Array, "b frames bins"]:
  """Squared magnitude of the windowed one-sided spectrum, without any normalisation."""
  fft = functools.partial(_power_fft, n_fft=frames.shape[-1])
  matmul = functools.partial(_power_matmul, n_fft=frames.shape[-1])
  match transform:
    case "fft":
      return fft(frames)
    case "matmul":
      return matmul(frames)
    case _:
      return jax.lax.platform_dependent(frames, tpu=matmul, default=fft)


def mel_power(
  wave: Float[Array, "b s"], cfg: MelConfig = DASHENG_MEL
) -> Float[Array, "b f frames"]:
  """Mel power spectrogram, before decibels. Raises ValueError for waves too short to reflect."""
  if wave.shape[1] < cfg.min_samples:
    raise ValueError(
      f"wave has {wave.shape[1]} samples; the mel front end needs at least {cfg.min_samples} "
      f"({1000 * cfg.min_samples / cfg.sample_rate:.0f} ms): pad it with zeros and pass its length"
    )
  frames = frame(wave.astype(jnp.float32), cfg.n_fft, cfg.hop_length)
  power = power_spectrum(frames, cfg.transform)
  filters = mel_filterbank(cfg)
  return jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST).swapaxes(1, 2)


def power_to_db(
  mel: Float[Array, "b f frames"], cfg: MelConfig = DASHENG_MEL
) -> Float[Array, "b f frames"]:
  """10 log10 of the floored power, with the low end clamped.

  Values more than `top_db` below the maximum that `cfg.clamp` names are raised to that level. A NaN
  stays in its own clip: the maximum over the batch passes over it, so one broken recording cannot
  reach the features of its neighbours.
  """
  db = 10.0 * jnp.log10(jnp.maximum(mel, cfg.power_floor))
  if cfg.clamp == "none":
    return db
  loudest = jnp.where(jnp.isnan(db), -jnp.inf, db)
  axes = (0, 1, 2) if cfg.clamp == "batch" else (1, 2)
  return jnp.maximum(db, jnp.max(loudest, axis=axes, keepdims=True) - cfg.top_db)


def log_mel(wave: Float[Array, "b s"], cfg: MelConfig = DASHENG_MEL) -> Float[Array, "b f frames"]:
  """Log-mel spectrogram in dB of mono waves in [-1, 1], always in float32.

  Silence gives -100 dB throughout (10 log10 of `power_floor`).
  """
  return power_to_db(mel_power(wave, cfg), cfg)
