"""What an encoder has to beat: features that need no training at all."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.embed import embed_set
from pipelines.mel import DASHENG_MEL, MelConfig, log_mel
from pipelines.tasks import LabelledSet

# Clamped per clip: the features of a clip must not depend on its neighbours in the batch.
FULL_RANGE = dataclasses.replace(DASHENG_MEL, clamp="sample")
# What lies far below the loudest cell is noise floor, resampling filter and rounding: it tells
# recordings apart, not sounds. Cutting it off makes the rival much stronger (about 12 points on
# spoken digits, 5 on ESC-10).
TOP_50_DB = dataclasses.replace(FULL_RANGE, top_db=50.0)


def log_mel_statistics(
  labelled_set: LabelledSet, cfg: MelConfig = FULL_RANGE, progress: bool = True
) -> np.ndarray:
  """Mean and standard deviation over time of the log-mel in dB, f32[n, 2 * mel_bins]."""

  def frames(params: None, wave: jax.Array, lengths: jax.Array) -> jax.Array:
    del params, lengths
    return jnp.swapaxes(log_mel(wave, cfg), 1, 2)

  hop = cfg.hop_length
  return embed_set(frames, None, labelled_set, "mean_std", token_samples=hop, progress=progress)


RIVALS: dict[str, MelConfig] = {
  "log-mel mean and std": FULL_RANGE,
  "log-mel mean and std, top 50 dB": TOP_50_DB,
}
