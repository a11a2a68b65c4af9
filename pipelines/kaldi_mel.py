"""The 32 kHz log-mel of MN and DyMN on the device, in jnp alone.

    wave f32[b, s] -> pre-emphasis f32[b, s - 1] -> windowed frames -> power f32[b, frames, bins]
                   -> mel f32[b, f, frames] -> ln(mel + 1e-5) -> masks (training) -> (x + 4.5) / 5

The default `KaldiMelConfig` is the front end of "Efficient Large-Scale Audio Tagging via
Transformer-to-CNN Knowledge Distillation" (arXiv 2211.04772) as published with EfficientAT
(reference text, section 1): 32 kHz, 25 ms symmetric Hann window in the middle of a 1024-point FFT,
hop 10 ms, centred frames with reflect padding, 128 Kaldi triangles from 0 to 15 kHz. Training draws
the lowest and the highest frequency of the triangles anew at every call.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from pipelines.spec_masks import Sharing, apply_masks, check_masks, mask_uniforms

Transform = Literal["auto", "fft", "matmul"]

PRE_EMPHASIS = 0.97
POWER_OFFSET = 1e-5  # added to the mel power before the logarithm
SHIFT, SCALE = 4.5, 5.0  # log-mels are normalised to (x + SHIFT) / SCALE

# Frames of one step of the loop on the CPU: 4 MB of frames and 4 MB of spectrum stay in the cache
# and in memory that is used again. See docs/mobile_speed.md.
CPU_STEP_FRAMES = 1000
# Bands that share one product with the FFT bins they can hear.
BAND_GROUP = 32


@dataclasses.dataclass(frozen=True)
class KaldiMelConfig:
  """A log-mel front end. Frequencies in Hz, lengths in samples, mask widths in cells.

  The published variants change one field: `hop_length` 160, 480, 640 or 800; `mel_bins` 40, 64 or
  256. At 256 bands 13 low filters fall between two FFT bins and hear nothing; those bands stay, at
  the value of silence, because the published networks were trained with them.
  """

  sample_rate: int = 32_000
  n_fft: int = 1024
  win_length: int = 800
  hop_length: int = 320
  mel_bins: int = 128
  fmin: float = 0.0
  # None: half the sample rate less half of `fmax_range`, which is 15000 Hz by default.
  fmax: float | None = None
  # Training draws fmin + {0 .. fmin_range - 1} and fmax + fmax_range // 2 - {0 .. fmax_range - 1}.
  # A range of 1 switches a draw off.
  fmin_range: int = 10
  fmax_range: int = 2000
  # "batch": one draw for the whole batch, as in the published recipes. "clip": one for each clip.
  perturb: Sharing = "batch"
  # The greatest widths of the training masks. The published recipes use none; `SPEC_AUGMENT_MEL`
  # has the widths that the published class sets when it is given none.
  freq_mask: int = 0
  time_mask: int = 0
  mask_sharing: Sharing = "clip"
  # "auto" is the FFT on CPU and GPU and the matrix form on TPU, whose matrix unit outruns its FFT.
  transform: Transform = "auto"

  def __post_init__(self):
    for name in ("sample_rate", "n_fft", "win_length", "hop_length", "mel_bins"):
      if getattr(self, name) < 1:
        raise ValueError(f"mel.{name} is {getattr(self, name)}; it must be more than 0")
    for name in ("fmin_range", "fmax_range"):
      if getattr(self, name) < 1:
        raise ValueError(f"mel.{name} is {getattr(self, name)}; set 1 for no perturbation")
    for name in ("n_fft", "win_length"):
      if getattr(self, name) % 2:
        raise ValueError(f"mel.{name} is {getattr(self, name)}; it must be even")
    if self.win_length > self.n_fft:
      raise ValueError(f"mel.win_length {self.win_length} is longer than mel.n_fft {self.n_fft}")
    if self.transform not in ("auto", "fft", "matmul"):
      raise ValueError(f"mel.transform is {self.transform!r}; choose 'auto', 'fft' or 'matmul'")
    if self.perturb not in ("batch", "clip"):
      raise ValueError(f"mel.perturb is {self.perturb!r}; choose 'batch' or 'clip'")
    check_masks(self.freq_mask, self.time_mask, self.mask_sharing)
    if not 0 <= self.fmin < self.high_hz <= self.sample_rate / 2:
      raise ValueError(
        f"mel band {self.fmin}..{self.high_hz} Hz must lie within 0..{self.sample_rate / 2} Hz: "
        "set mel.fmin and mel.fmax"
      )

  @property
  def high_hz(self) -> float:
    """The highest frequency in evaluation mode: `fmax`, or what None stands for."""
    if self.fmax is not None:
      return float(self.fmax)
    return float(self.sample_rate // 2 - self.fmax_range // 2)

  @property
  def bins(self) -> int:
    """Bins of the one-sided spectrum, with that at half the sample rate."""
    return self.n_fft // 2 + 1

  def frames(self, samples: int) -> int:
    """Mel frames of a wave of `samples` samples: 1000 for 10 s, 16 for 160 ms by default."""
    return 1 + (samples - 1) // self.hop_length

  @property
  def min_samples(self) -> int:
    """Shortest wave whose pre-emphasised form, one sample shorter, can be reflected."""
    return self.n_fft // 2 + 2


KALDI_MEL = KaldiMelConfig()
KALDI_MEL_16K = KaldiMelConfig(sample_rate=16_000, n_fft=512, win_length=400, hop_length=160)
SPEC_AUGMENT_MEL = KaldiMelConfig(freq_mask=48, time_mask=192)


@functools.cache
def _bin_mels(cfg: KaldiMelConfig) -> np.ndarray:
  """Mel frequencies of the bins below half the sample rate, f32[bins - 1], m = 1127 ln(1 + f/700).

  Rounded to float32 step by step as in the published code; narrow low filters show the difference.
  """
  single = np.float32
  hz = single(cfg.sample_rate / cfg.n_fft) * np.arange(cfg.n_fft // 2, dtype=np.float32)
  return single(1127) * np.log((single(1) + hz / single(700)).astype(np.float64)).astype(np.float32)


def _triangles(cfg: KaldiMelConfig, low, step, xp):
  """Filters [f, bins] with corners at low + i * step on the mel axis."""
  mel = _bin_mels(cfg)[None]
  index = np.arange(cfg.mel_bins, dtype=np.float32)[:, None]
  left, centre, right = (low + (index + np.float32(i)) * step for i in range(3))
  rising = (mel - left) / (centre - left)
  falling = (right - mel) / (right - centre)
  # Half the sample rate is no bin of Kaldi's bank: its column is zero.
  return xp.pad(xp.maximum(np.float32(0), xp.minimum(rising, falling)), ((0, 0), (0, 1)))


def kaldi_filterbank(
  cfg: KaldiMelConfig, fmin: Float[Array, ""], fmax: Float[Array, ""]
) -> Float[Array, "f bins"]:
  """Kaldi's mel triangles from `fmin` to `fmax` Hz, traceable and differentiable in both.

  Peak 1, no area normalisation, straight on m(f) = 1127 ln(1 + f / 700), the last column zero.
  """
  low, high = (1127.0 * jnp.log1p(jnp.asarray(hz, jnp.float32) / 700.0) for hz in (fmin, fmax))
  return _triangles(cfg, low, (high - low) / (cfg.mel_bins + 1), jnp)


@functools.cache
def eval_filterbank(cfg: KaldiMelConfig) -> np.ndarray:
  """The triangles of evaluation mode, from `cfg.fmin` to `cfg.high_hz`, as a constant."""
  low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (cfg.fmin, cfg.high_hz))
  step = (high - low) / (cfg.mel_bins + 1)
  return _triangles(cfg, np.float32(low), np.float32(step), np)


def empty_filters(cfg: KaldiMelConfig) -> int:
  """How many filters of evaluation mode fall between two FFT bins: 0, or 13 at 256 bands."""
  return int(np.sum(~eval_filterbank(cfg).any(axis=1)))


def preemphasis(wave: Float[Array, "b s"]) -> Float[Array, "b s-1"]:
  """y[t] = x[t + 1] - 0.97 x[t]: one sample shorter than the wave."""
  return wave[:, 1:] - PRE_EMPHASIS * wave[:, :-1]


@functools.cache
def hann_window(length: int) -> np.ndarray:
  """Symmetric Hann window, f32[length]: zero at both ends."""
  angle = 2 * np.pi * np.arange(length) / (length - 1)
  return (0.5 - 0.5 * np.cos(angle)).astype(np.float32)


def _hops_per_window(cfg: KaldiMelConfig) -> int:
  return -(-cfg.win_length // cfg.hop_length)


def _hop_rows(wave: jax.Array, count: int, cfg: KaldiMelConfig) -> jax.Array:
  """The padded, pre-emphasised waves cut into hops [b, rows, hop], enough for `count` frames.

  The window is zero outside its `win_length` samples in the middle of the FFT, and a shift changes
  no power: so frames are `win_length` wide, and half of that is all the padding that they need.
  """
  half = cfg.win_length // 2
  padded = jnp.pad(preemphasis(wave), ((0, 0), (half, half)), mode="reflect")
  needed = (count + _hops_per_window(cfg) - 1) * cfg.hop_length
  padded = jnp.pad(padded, ((0, 0), (0, max(0, needed - padded.shape[1]))))[:, :needed]
  return padded.reshape(wave.shape[0], -1, cfg.hop_length)


def _frames(rows: jax.Array, cfg: KaldiMelConfig) -> jax.Array:
  """Frames [b, t, win_length], each a few neighbouring hops side by side (see `mel.frame`)."""
  hops, hop = _hops_per_window(cfg), cfg.hop_length
  count = rows.shape[1] - hops + 1
  parts = [rows[:, i : i + count, : cfg.win_length - i * hop] for i in range(hops)]
  return jnp.concatenate(parts, axis=-1)


def _power_fft(frames: jax.Array, cfg: KaldiMelConfig, bins: int) -> jax.Array:
  spectrum = jnp.fft.rfft(frames * hann_window(cfg.win_length)[None, None], n=cfg.n_fft)[..., :bins]
  return jnp.square(spectrum.real) + jnp.square(spectrum.imag)


@functools.cache
def _dft_halves(cfg: KaldiMelConfig) -> tuple[np.ndarray, np.ndarray]:
  """Windowed cosines and sines about the middle of the window, f32[win_length / 2, bins] each."""
  half = cfg.win_length // 2
  # Odd multiples of half a sample, reduced in integers so that the angle is exact in double.
  turns = np.outer(2 * np.arange(half) - cfg.win_length + 1, np.arange(cfg.bins)) % (2 * cfg.n_fft)
  angle = np.pi * turns / cfg.n_fft
  window = hann_window(cfg.win_length)[:half, None].astype(np.float64)
  return (window * np.cos(angle)).astype(np.float32), (window * np.sin(angle)).astype(np.float32)


def _power_matmul(frames: jax.Array, cfg: KaldiMelConfig, bins: int) -> jax.Array:
  """The same as products: even halves with cosines, odd halves with sines, half the operations."""
  cosines, sines = (matrix[:, :bins] for matrix in _dft_halves(cfg))
  first = frames[..., : cfg.win_length // 2]
  second = frames[..., : cfg.win_length // 2 - 1 : -1]
  # HIGHEST keeps true float32 products on TPU and GPU.
  highest = jax.lax.Precision.HIGHEST
  even = jnp.matmul(first + second, cosines, precision=highest)
  odd = jnp.matmul(first - second, sines, precision=highest)
  return jnp.square(even) + jnp.square(odd)


def _mel_constant(power: jax.Array, bank: np.ndarray) -> jax.Array:
  """Mel power [b, f, t] by a constant bank: each group of bands sees the bins it can hear."""
  groups = []
  for first in range(0, len(bank), BAND_GROUP):
    rows = bank[first : first + BAND_GROUP]
    heard = np.flatnonzero(rows.any(axis=0))
    low, high = (heard[0], heard[-1] + 1) if heard.size else (0, 1)
    part = rows[:, low:high].T
    groups.append(jnp.matmul(power[..., low:high], part, precision=jax.lax.Precision.HIGHEST))
  return jnp.concatenate(groups, axis=-1).swapaxes(1, 2)


def _mel_traced(power: jax.Array, bank: jax.Array) -> jax.Array:
  """Mel power [b, f, t] by one bank [f, bins], or by one for each clip [b, f, bins]."""
  axes = "bfk" if bank.ndim == 3 else "fk"
  return jnp.einsum(f"btk,{axes}->bft", power, bank, precision=jax.lax.Precision.HIGHEST)


def _over_steps(rows: jax.Array, count: int, cfg: KaldiMelConfig, step_mel) -> jax.Array:
  """`step_mel` over stretches of time, one after the other, of about CPU_STEP_FRAMES frames.

  The loop runs over time and not over clips, so that a long clip is cut as well and a batch may be
  spread over devices.
  """
  steps = max(1, round(rows.shape[0] * count / CPU_STEP_FRAMES))
  if steps == 1:
    return step_mel(rows)
  length = -(-count // steps)
  width = length + _hops_per_window(cfg) - 1
  rows = jnp.pad(rows, ((0, 0), (0, steps * length - count), (0, 0)))
  mels = jax.lax.map(
    lambda i: step_mel(jax.lax.dynamic_slice_in_dim(rows, i * length, width, axis=1)),
    jnp.arange(steps),
  )
  return einops.rearrange(mels, "n b f t -> b f (n t)")[..., :count]


@functools.partial(jax.jit, static_argnames="cfg")
def _natural_log_mel(wave: jax.Array, bank: jax.Array | None, cfg: KaldiMelConfig) -> jax.Array:
  """ln(mel + 1e-5), f32[b, f, frames]; the evaluation bank where `bank` is None."""
  count = cfg.frames(wave.shape[1])
  rows = _hop_rows(wave.astype(jnp.float32), count, cfg)
  if bank is None:
    constant = eval_filterbank(cfg)
    bins = int(np.flatnonzero(constant.any(axis=0)).max(initial=0)) + 1
    to_mel = functools.partial(_mel_constant, bank=constant[:, :bins])
  else:
    bins = cfg.bins - 1
    to_mel = functools.partial(_mel_traced, bank=bank[..., :bins])

  def whole(rows, power):
    return jnp.log(to_mel(power(_frames(rows, cfg), cfg, bins)) + POWER_OFFSET)

  fft = functools.partial(whole, power=_power_fft)
  matmul = functools.partial(whole, power=_power_matmul)
  if cfg.transform == "matmul":
    return matmul(rows)
  forms = {"cpu": lambda rows: _over_steps(rows, count, cfg, fft)}
  if cfg.transform == "auto":
    forms["tpu"] = matmul
  return jax.lax.platform_dependent(rows, default=fft, **forms)


def _check_length(wave: jax.Array, cfg: KaldiMelConfig) -> None:
  if wave.shape[1] < cfg.min_samples:
    raise ValueError(
      f"wave has {wave.shape[1]} samples; the mel front end needs at least {cfg.min_samples} "
      f"({1000 * cfg.min_samples / cfg.sample_rate:.0f} ms): pad it with zeros"
    )


def log_mel_32k(
  wave: Float[Array, "b s"], cfg: KaldiMelConfig = KALDI_MEL
) -> Float[Array, "b f frames"]:
  """Normalised log-mel of mono waves in [-1, 1], in evaluation mode, always in float32.

  Silence gives (ln 1e-5 + 4.5) / 5 = -1.402585. A NaN stays in its own clip. Raises ValueError for
  waves of fewer than `cfg.min_samples` samples.
  """
  _check_length(wave, cfg)
  return (_natural_log_mel(wave, None, cfg) + SHIFT) / SCALE


def draw_band(
  key: Key[Array, ""], batch: int, cfg: KaldiMelConfig = KALDI_MEL
) -> tuple[Float[Array, "*draws"], Float[Array, "*draws"]]:
  """(fmin, fmax) in Hz of one training call: scalars, or f32[b] with `cfg.perturb` "clip".

  fmin + U{0 .. fmin_range - 1} and fmax + fmax_range // 2 - U{0 .. fmax_range - 1}: 0 to 9 Hz and
  14001 to 16000 Hz by default. Raises ValueError where a draw could leave the spectrum.
  """
  top = cfg.high_hz + cfg.fmax_range // 2
  lowest_top = top - (cfg.fmax_range - 1)
  if top > cfg.sample_rate / 2 or cfg.fmin + cfg.fmin_range - 1 >= lowest_top:
    raise ValueError(
      f"mel.fmax_range {cfg.fmax_range} draws bands up to {lowest_top}..{top} Hz, and they must "
      f"end within mel.fmin..{cfg.sample_rate / 2} Hz: lower mel.fmax or mel.fmax_range"
    )
  shape = () if cfg.perturb == "batch" else (batch,)
  low, high = jax.random.split(key)
  fmin = cfg.fmin + jax.random.randint(low, shape, 0, cfg.fmin_range).astype(jnp.float32)
  return fmin, top - jax.random.randint(high, shape, 0, cfg.fmax_range).astype(jnp.float32)


def log_mel_of_draws(
  wave: Float[Array, "b s"],
  cfg: KaldiMelConfig,
  fmin: Float[Array, "*draws"],
  fmax: Float[Array, "*draws"],
  uniforms: Float[Array, "4 b"] | None = None,
) -> Float[Array, "b f frames"]:
  """Normalised log-mel in training mode with everything random given.

  `fmin` and `fmax` in Hz are scalars or f32[b]; `uniforms` places the masks of `cfg.freq_mask` and
  `cfg.time_mask` (see `spec_masks.mask_uniforms`), None leaves them out. Masked cells hold 0.9.
  """
  _check_length(wave, cfg)
  bank = functools.partial(kaldi_filterbank, cfg)
  log = _natural_log_mel(wave, (jax.vmap(bank) if fmin.ndim else bank)(fmin, fmax), cfg)
  if uniforms is not None:
    log = apply_masks(log, uniforms, cfg.freq_mask, cfg.time_mask)
  return (log + SHIFT) / SCALE


def perturbed_log_mel(
  wave: Float[Array, "b s"], cfg: KaldiMelConfig, key: Key[Array, ""]
) -> Float[Array, "b f frames"]:
  """Normalised log-mel in training mode: band and masks are a pure function of `key` and `cfg`."""
  band, masks = jax.random.split(key)
  uniforms = None
  if cfg.freq_mask or cfg.time_mask:
    uniforms = mask_uniforms(masks, wave.shape[0], cfg.mask_sharing)
  return log_mel_of_draws(wave, cfg, *draw_band(band, wave.shape[0], cfg), uniforms)
