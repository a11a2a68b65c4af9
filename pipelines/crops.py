"""How recordings are cut into clips: counts and starts, as arithmetic on lengths."""

import numpy as np

from pipelines import order
from pipelines.config import DataConfig


def clip_counts(frames: np.ndarray, rates: np.ndarray, cfg: DataConfig) -> np.ndarray:
  """Clips of each recording: i64[n], at least 1.

  Whole clips from the start and the remainder dropped, as in the Dasheng paper (section 3.1); a
  recording shorter than a clip is one clip, padded with zeros. Random crops are as many, so long
  recordings weigh the same either way; with "single", "first" and "whole" every recording
  is one clip. "pieces" also keep the remainder, padded with zeros: nothing that is labelled is lost
  (reference text of the weakly supervised taggers, sections 4 and 7).
  """
  if cfg.crop in ("single", "first", "whole"):
    return np.ones(len(frames), np.int64)
  samples = frames * cfg.sample_rate // np.maximum(rates, 1).astype(np.int64)
  if cfg.crop == "pieces":
    return np.maximum(1, -(-samples // cfg.crop_samples))
  return np.maximum(1, samples // cfg.crop_samples)


def clip_start(
  cfg: DataConfig, seed: int, epoch: int, example: int, number: int, frames: int, rate: int
) -> int:
  """First sample of a clip at the recording's own rate.

  Args:
    cfg: crop, crop_seconds and sample_rate.
    seed: of the run; with epoch and example it decides a random crop.
    epoch: how often the clip's source had been passed through before.
    example: clip number over all sources together.
    number: which clip of its recording this is, from 0.
    frames: length of the recording at its own rate.
    rate: Hz, of the recording.
  """
  if cfg.crop in ("sequential", "first", "pieces", "whole"):
    return number * cfg.crop_samples * rate // cfg.sample_rate
  room = frames - -(-cfg.crop_samples * rate // cfg.sample_rate)
  if room <= 0:
    return 0
  return int(order.hash64(order.stream(seed, "crop"), epoch, example)[0] % np.uint64(room + 1))
