"""Waves to log-mels and tags: the pure functions behind `load_model`."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dasheng_jax.errors import ConfigError
from mobile_jax.families import Decision
from mobile_jax.network import Config, Variables, infer
from pipelines.kaldi_mel import log_mel_32k
from pipelines.mel import MelConfig, mel_power, power_to_db


def tag(
  cfg: Config, variables: Variables, wave: Float[Array, "b s"]
) -> tuple[Float[Array, "b classes"], Float[Array, "b c"]]:
  """(logits, pooled features) of waves f32[b, s] in [-1, 1] at `cfg.mel.sample_rate` (32 kHz).

  Any length of at least `least_samples(cfg)`, 514 (16 ms) for MN and DyMN. Where
  `cfg.objective` is "tags", logits are of independent tags: take a sigmoid; else take a softmax.
  MobileNetV2 and EfficientNet hear 16 kHz, and by the released clamp the loudest clip of a batch:
  `cfg.mel.clamp` "sample" makes clips independent.
  Raises ConfigError for a wave of another rank or type, or too short.
  """
  outputs = infer(cfg, variables, log_mel(cfg, wave))
  return outputs.logits, outputs.features


def log_mel(
  cfg: Config, wave: Float[Array, "b s"], frames: int | None = None
) -> Float[Array, "b f frames"]:
  """Log-mel of checked waves: normalised, or in dB for taggers that decide at every step.

  frames: how many to keep; the clamp in dB looks at no others.
  """
  check_wave(cfg, wave)
  if isinstance(cfg.mel, MelConfig):
    return power_to_db(mel_power(wave, cfg.mel)[..., :frames], cfg.mel)
  return log_mel_32k(wave, cfg.mel)[..., :frames]


def alone(cfg: Config) -> Config:
  """The same network with a front end in which no clip depends on those beside it."""
  if isinstance(cfg, Decision) and cfg.mel.clamp == "batch":
    return dataclasses.replace(cfg, mel=dataclasses.replace(cfg.mel, clamp="sample"))
  return cfg


def check_wave(cfg: Config, wave: jax.Array) -> None:
  """ConfigError, at trace time, for input that the front end cannot take."""
  if not hasattr(wave, "dtype"):
    raise ConfigError(f"wave is a {type(wave).__name__}; expected an array: use jnp.asarray(wave)")
  shape = jnp.shape(wave)
  if len(shape) != 2:
    raise ConfigError(
      f"wave has shape {shape}; expected [batch, samples]: use wave[None] for one clip, "
      "average channels to mono"
    )
  if not jnp.issubdtype(jnp.result_type(wave), jnp.floating):
    raise ConfigError(
      f"wave is {jnp.result_type(wave)}; expected floats in [-1, 1]: divide 16-bit samples by 32768"
    )
  least = least_samples(cfg)
  if shape[0] == 0 or shape[1] < least:
    raise ConfigError(
      f"wave of shape {shape} is too short: at least one clip of {least} samples "
      f"({1000 * least / cfg.mel.sample_rate:.0f} ms) is needed; pad with zeros"
    )


def least_samples(cfg: Config) -> int:
  """Of the shortest wave that the front end and the network can take."""
  samples = (cfg.least_frames - 1) * cfg.mel.hop_length
  samples += cfg.mel.frames(samples) < cfg.least_frames
  return max(cfg.mel.min_samples, samples)
