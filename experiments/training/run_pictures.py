"""Pictures of a pre-training run: loss curves, and what the decoder makes of a held-out clip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from dasheng_jax.config import DashengConfig
from dasheng_jax.mae import reconstruct, reconstruction_db
from dasheng_jax.masking import random_mask
from dasheng_jax.patches import unpatchify
from experiments.training.keys import stream_key
from experiments.training.metrics import FILE as METRICS_FILE
from experiments.training.pictures import loss_curve, reconstruction
from experiments.training.state import TrainState
from pipelines import Dataset, evaluation_batches
from pipelines.mel import log_mel

if TYPE_CHECKING:
  from experiments.configs.pretrain import PretrainConfig


def draw_pictures(
  cfg: PretrainConfig, state: TrainState, held_out: Dataset | None, workdir: Path
) -> list[Path]:
  """Draws into the run's folder; the files drawn. Without held-out clips, the loss curve alone."""
  if jax.process_count() > 1:  # the metrics are on the first host; the parameters on all of them
    return []
  pictures = [loss_curve(workdir / METRICS_FILE, workdir / "loss.png")]
  if held_out is not None:
    with evaluation_batches(held_out, cfg.loop.batch_size) as batches:
      batch = next(batches)
    row = _fullest(batch)
    params = state.params if state.ema is None else state.ema
    variables = {"params": params, "batch_stats": state.model_state}
    target, hidden, predicted = reconstruct_clip(
      cfg.model, variables, batch["wave"][row], seed=cfg.loop.seed
    )
    path = workdir / "reconstruction.png"
    pictures.append(reconstruction(target, hidden, predicted, path, title=str(batch["id"][row])))
  return pictures


def reconstruct_clip(
  cfg: DashengConfig, variables: dict, wave: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(log-mel dB f32[f, frames], hidden bool[t], reconstruction dB f32[f, frames]) of one clip."""

  @jax.jit
  def run(variables: dict, wave: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    spectrum = log_mel(wave, cfg.mel)
    patches = spectrum.shape[2] // cfg.patch_frames
    masking = random_mask(stream_key(seed, "picture"), 1, patches, cfg.mask_ratio, cfg.mask_group)
    predicted, _, _ = reconstruct(cfg, variables, spectrum, masking)
    filled = reconstruction_db(cfg, spectrum, predicted, masking.hidden)
    return spectrum[0], masking.hidden[0], unpatchify(filled, cfg.patch_frames)[0]

  spectrum, hidden, filled = jax.device_get(run(variables, jnp.asarray(wave)[None]))
  return spectrum, hidden, filled


def _fullest(batch: dict[str, np.ndarray]) -> int:
  """The row to show: the loudest of those that padding shortens least."""
  valid = batch["valid"] * batch["mask"]
  level = np.sqrt(np.mean(np.square(batch["wave"]), axis=1))
  return int(np.argmax(np.where(valid == valid.max(), level, -1.0)))
