"""The masked autoencoder: both halves wired, and the pure functions of pre-training."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dasheng_jax.config import DashengConfig
from dasheng_jax.decoder import Decoder
from dasheng_jax.encoder import Encoder
from dasheng_jax.errors import ConfigError
from dasheng_jax.loss import masked_mse, normalise_target
from dasheng_jax.masking import Masking, count_kept, random_mask
from dasheng_jax.patches import patchify
from dasheng_jax.sharding import each_row_at_home
from pipelines.mel import mel_power, power_to_db

Variables = dict


class MaskedAutoencoder(nn.Module):
  """Encoder on the visible patches, decoder on all of them."""

  cfg: DashengConfig

  def setup(self):
    """The two halves, under the names that checkpoints know."""
    self.encoder = Encoder(self.cfg)
    self.decoder = Decoder(self.cfg)

  def __call__(
    self,
    log_mel: Float[Array, "b f frames"],
    masking: Masking,
    train: bool = False,
    valid: Bool[Array, "b t"] | None = None,
  ) -> Float[Array, "b t p"]:
    """Predicted (normalised) elements of all patches, visible ones included."""
    latent = self.encoder(log_mel, masking.kept, train, valid)
    return self.decoder(latent, masking.restore, valid)


def init_variables(cfg: DashengConfig, key: jax.Array) -> Variables:
  """Fresh {"params", "batch_stats"} as the released code draws them (reference text, section 6).

  Works under `jax.eval_shape` and `jax.jit`: parameter trees of any size can be inspected without
  allocating them.
  """
  # Shapes of parameters do not depend on the input's length; one visible patch is enough to trace
  # with.
  patches = math.ceil(1 / (1 - cfg.mask_ratio)) + 1
  log_mel = jnp.zeros((1, cfg.mel.mel_bins, patches * cfg.patch_frames), jnp.float32)
  masking = random_mask(key, 1, patches, cfg.mask_ratio, cfg.mask_group)
  return MaskedAutoencoder(cfg).init(key, log_mel, masking)


def reconstruct(
  cfg: DashengConfig,
  variables: Variables,
  log_mel: Float[Array, "b f frames"],
  masking: Masking,
  train: bool = False,
  valid: Bool[Array, "b t"] | None = None,
  counted: Bool[Array, "b t"] | None = None,
) -> tuple[Float[Array, "b t p"], Float[Array, "b t p"], Variables]:
  """(prediction, normalised target, batch statistics) for a log-mel batch and a mask.

  valid: patches that are no padding; the others are not attended to and move no statistics.
  counted: patches that enter a target normalised over the batch, which those of padding clips do
  not either. None means all, in both.

  The target is the raw log-mel in dB, not the output of the input normalisation.
  """
  pred, updated = MaskedAutoencoder(cfg).apply(
    variables, log_mel, masking, train, valid, mutable=["batch_stats"] if train else []
  )
  target = normalise_target(patchify(log_mel, cfg.patch_frames), cfg.target_norm, counted)
  return pred, target, updated.get("batch_stats", variables["batch_stats"])


def pretrain_loss(
  cfg: DashengConfig,
  params: Variables,
  batch_stats: Variables,
  wave: Float[Array, "b s"],
  key: jax.Array,
  train: bool = True,
  *,
  valid: Int[Array, " b"] | None = None,
  rows: Bool[Array, " b"] | None = None,
) -> tuple[Float[Array, ""], tuple[Variables, dict[str, Float[Array, ""]]]]:
  """Masked reconstruction loss of waves in [-1, 1] at 16 kHz: (loss, (new statistics, metrics)).

  The mask is a pure function of `key`. No gradient flows into the log-mel. valid: samples of each
  row before its padding, which count with `cfg.padding` "ignore" alone. rows: True for rows that
  enter the loss (evaluation pads its last batch). Metrics: "counted", the number of hidden patches
  that entered the loss. Raises ConfigError, at trace time, for crops that are too short to mask or
  longer than the time table.
  """
  batch, patches = wave.shape[0], check_crop(cfg, wave.shape[1])
  # The clamp of the decibels looks at the whole batch, all before it at one clip alone.
  power = each_row_at_home(functools.partial(mel_power, cfg=cfg.mel), wave)
  log_mel = jax.lax.stop_gradient(power_to_db(power, cfg.mel))
  masking = random_mask(key, batch, patches, cfg.mask_ratio, cfg.mask_group)
  valid_patches = None
  if cfg.padding == "ignore" and valid is not None:
    # A patch that holds any audio counts; a row always has one, or its attention would be void.
    starts = jnp.arange(patches) * cfg.patch_samples
    valid_patches = starts[None] < jnp.maximum(valid, 1)[:, None]
  counted = valid_patches
  if rows is not None:
    counted = rows[:, None] & (jnp.ones((batch, patches), bool) if counted is None else counted)
  variables = {"params": params, "batch_stats": batch_stats}
  pred, target, batch_stats = reconstruct(
    cfg, variables, log_mel, masking, train, valid_patches, counted
  )
  scored = masking.hidden if counted is None else masking.hidden & counted
  metrics = {"counted": jnp.sum(scored, dtype=jnp.float32)}
  return masked_mse(pred, target, scored), (batch_stats, metrics)


def check_crop(cfg: DashengConfig, samples: int) -> int:
  """Patches of a training crop; ConfigError when it cannot be masked or has no positions."""
  if samples < cfg.min_samples:
    raise ConfigError(
      f"a crop of {samples} samples gives no patch; at least {cfg.min_samples} samples are needed"
    )
  patches = cfg.patches(samples)
  count_kept(patches, cfg.mask_ratio)
  if patches > cfg.encoder.positions:
    longest = cfg.encoder.positions * cfg.patch_samples / cfg.mel.sample_rate
    raise ConfigError(
      f"a crop of {samples} samples has {patches} patches, but the time table ends at "
      f"{cfg.encoder.positions}: crop to {longest:.2f} s or less, or raise model.encoder.positions"
    )
  return patches


def reconstruction_db(
  cfg: DashengConfig,
  log_mel: Float[Array, "b f frames"],
  pred: Float[Array, "b t p"],
  hidden: Bool[Array, "b t"],
) -> Float[Array, "b t p"]:
  """Prediction on hidden patches, truth on visible ones, in dB.

  A prediction of normalised patches carries shape but no level, so each patch gets back the mean
  and deviation of the patch it predicts. That shows what was learnt; it is not a forecast of
  levels.
  """
  target = patchify(log_mel, cfg.patch_frames)
  if cfg.target_norm != "none":
    axes = (2,) if cfg.target_norm == "patch" else (0, 1, 2)
    mean = jnp.mean(target, axis=axes, keepdims=True)
    pred = pred * jnp.std(target, axis=axes, keepdims=True, ddof=1) + mean
  return jnp.where(hidden[:, :, None], pred, target)
