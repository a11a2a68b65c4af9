"""The log-mel of `pipelines.kaldi_mel` out of dense products alone, for runtimes without an FFT.

    wave f32[b, s] -> pre-emphasis -> frames f32[b, t, window] -> power f32[b, t, bins]
                   -> mel -> ln -> log-mel f32[b, f, t]

The transform of length N = A B is two small products and one table of twiddle factors (Cooley and
Tukey, "An Algorithm for the Machine Calculation of Complex Fourier Series", 1965). With
n = B n1 + n2 and k = k1 + A k2,

    X[k] = sum_n2 W_B^(n2 k2) W_N^(n2 k1) sum_n1 W_A^(n1 k1) x[n],    W_m = exp(-2 pi i / m)

A DFT matrix for 4096 points and windows of 3072 would fill 50 MB; these tables fill 0.1 MB. The
operations of LiteRT and ONNX for an FFT are slower and run on few accelerators (docs/export.md).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.training.errors import UsageError
from pipelines.kaldi_mel import (
  POWER_OFFSET,
  SCALE,
  SHIFT,
  KaldiMelConfig,
  eval_filterbank,
  hann_window,
  preemphasis,
)

# Bands that share one product with the bins they hear: the fewer, the less zeros are stored.
BAND_GROUP = 8
EXACT = jax.lax.Precision.HIGHEST  # true float32 products


def log_mel(wave: Float[Array, "b s"], cfg: KaldiMelConfig) -> Float[Array, "b f frames"]:
  """Normalised log-mel in evaluation mode, as `kaldi_mel.log_mel_32k` gives it.

  Raises UsageError where `cfg.n_fft` is no power of two, or less than 8.
  """
  bank = eval_filterbank(cfg)
  power = power_spectrum(_frames(wave, cfg), cfg)
  log = jnp.log(_mel(power, bank) + POWER_OFFSET)
  return ((log + SHIFT) / SCALE).swapaxes(1, 2)


def factors(n_fft: int) -> tuple[int, int]:
  """(A, B), N = A B: as equal as powers of two can be, B not greater than A."""
  if n_fft < 8 or n_fft & (n_fft - 1):
    raise UsageError(f"mel.n_fft is {n_fft}; a front end is exported for powers of two from 8 on")
  short = 2 ** ((n_fft.bit_length() - 1) // 2)
  return n_fft // short, short


def power_spectrum(
  frames: Float[Array, "b t w"], cfg: KaldiMelConfig
) -> Float[Array, "b t bins-1"]:
  """|X|^2 of windowed frames, without the bin at half the sample rate, which no band hears."""
  long, short = factors(cfg.n_fft)
  rows = -(-cfg.win_length // short)
  window = np.pad(hann_window(cfg.win_length), (0, rows * short - cfg.win_length))
  frames = jnp.pad(frames, ((0, 0), (0, 0), (0, rows * short - cfg.win_length)))
  batch, count = frames.shape[:2]
  x = (frames * window[None, None]).reshape(batch * count, rows, short)
  # Of a real signal the first k1 tell the others: those k with k1 > A / 2 are N less another k.
  first = np.arange(long // 2 + 1)
  y = jnp.einsum(
    "kn,bnm->bkm", np.concatenate(_turns(first, np.arange(rows), long)), x, precision=EXACT
  )
  z = _twiddled(y, *_turns(first, np.arange(short), cfg.n_fft))
  # The second half of k2, backwards: it gives N - k.
  second = np.r_[0 : short // 2, short - 1 : short // 2 - 1 : -1]
  cosines, sines = _turns(np.arange(short), second, short)
  w = jnp.matmul(z, np.block([[cosines, sines], [-sines, cosines]]), precision=EXACT)
  power = jnp.square(w[..., :short]) + jnp.square(w[..., short:])
  mirrored = backwards(power[:, 1 : long // 2, short // 2 :], axis=1)
  power = jnp.concatenate([power[..., : short // 2], mirrored], axis=1)
  return power.swapaxes(1, 2).reshape(batch, count, cfg.n_fft // 2)


def _turns(left: np.ndarray, right: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
  """Cosines and sines of exp(-2 pi i left right / length), f32[left, right] each."""
  # Reduced in integers, so that the angle is exact in double.
  angle = -2 * np.pi * (np.outer(left, right) % length) / length
  return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def _twiddled(y: jax.Array, cosine: np.ndarray, sine: np.ndarray) -> jax.Array:
  """Complex products of y[b, (re im) k, m] with factors [k, m], as [b, k, (re im) m]."""
  real, imaginary = jnp.split(y, 2, axis=1)
  cosine, sine = cosine[None], sine[None]
  parts = [real * cosine - imaginary * sine, real * sine + imaginary * cosine]
  return jnp.concatenate(parts, axis=2)


def backwards(x: jax.Array, axis: int) -> jax.Array:
  """Reversed by a gather: ONNX has no reversal, and what converters make of one is slow."""
  return jnp.take(x, np.arange(x.shape[axis])[::-1].copy(), axis=axis, mode="clip")


def _frames(wave: jax.Array, cfg: KaldiMelConfig) -> jax.Array:
  """Frames [b, t, window], each a few neighbouring hops side by side.

  The window is zero outside its `win_length` samples in the middle of the FFT, and a shift changes
  no power: half a window of reflected samples on both sides is all that is needed.
  """
  half, hop = cfg.win_length // 2, cfg.hop_length
  count = cfg.frames(wave.shape[1])
  x = preemphasis(wave)
  head, tail = x[:, 1 : half + 1], x[:, -half - 1 : -1]
  x = jnp.concatenate([backwards(head, 1), x, backwards(tail, 1)], axis=1)
  hops = -(-cfg.win_length // hop)
  needed = (count + hops - 1) * hop
  x = jnp.pad(x, ((0, 0), (0, max(0, needed - x.shape[1]))))[:, :needed]
  rows = x.reshape(len(x), -1, hop)
  parts = [rows[:, i : i + count, : cfg.win_length - i * hop] for i in range(hops)]
  return jnp.concatenate(parts, axis=2)


def _mel(power: jax.Array, bank: np.ndarray) -> jax.Array:
  """Mel power [b, t, f]; each group of bands sees the bins it can hear."""
  groups = []
  for first in range(0, len(bank), BAND_GROUP):
    rows = bank[first : first + BAND_GROUP]
    heard = np.flatnonzero(rows.any(axis=0))
    low, high = (heard[0], heard[-1] + 1) if heard.size else (0, 1)
    groups.append(jnp.matmul(power[..., low:high], rows[:, low:high].T, precision=EXACT))
  return jnp.concatenate(groups, axis=2)
