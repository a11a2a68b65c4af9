"""Leave-one-group-out probes that are trained with early stopping: perceptron and attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.evaluation.folds import standardised, targets_of
from experiments.evaluation.left_out import LeftOut, checked_folds, left_out
from experiments.evaluation.linear import check_classes
from experiments.evaluation.probes.attention import attention
from experiments.evaluation.probes.fit import FitConfig, Probe, fit_probe
from experiments.evaluation.probes.mlp import mlp
from pipelines.errors import DataError

MOST_BYTES = 8 << 30  # of the frames of a set, which are held whole


@dataclasses.dataclass(frozen=True)
class MlpConfig(FitConfig):
  """The perceptron."""

  hidden: int = 512  # units of its one hidden layer
  dropout: float = 0.2  # of hidden units


@dataclasses.dataclass(frozen=True)
class AttentionConfig(FitConfig):
  """Attention over frames, then a linear layer."""

  dropout: float = 0.0  # of the pooled vector


def mlp_accuracy(
  features: np.ndarray,
  labels: np.ndarray,
  groups: Sequence[str],
  cfg: MlpConfig,
  seeds: int = 1,
) -> LeftOut:
  """Classifies every clip by perceptrons that the other groups have trained.

  features f32[n, d], labels i32[n] or tags i32[n, classes], one group name per clip. Raises
  DataError as `checked_folds` does.
  """
  return _accuracy("mlp", mlp(cfg.hidden, cfg.dropout), features, None, labels, groups, cfg, seeds)


def attention_accuracy(
  frames: Sequence[np.ndarray],
  labels: np.ndarray,
  groups: Sequence[str],
  cfg: AttentionConfig,
  seeds: int = 1,
) -> LeftOut:
  """Classifies every clip by its frames f32[t, d], pooled with weights that the others taught.

  Labels, groups and errors are those of `mlp_accuracy`; frames of more than 8 GiB once padded to
  the longest clip are refused.
  """
  padded, valid = pad_frames(frames)
  probe = attention(cfg.dropout)
  return _accuracy("attention", probe, padded, valid, labels, groups, cfg, seeds)


def pad_frames(frames: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """(f32[n, longest, d] with zeros behind each clip, bool[n, longest]: which frames are real)."""
  counts = np.array([len(found) for found in frames])
  if not len(counts) or not counts.min():
    raise DataError("attention: a clip is too short to have a frame")
  shape = (len(frames), int(counts.max()), frames[0].shape[1])
  if (size := 4 * int(np.prod(shape))) > MOST_BYTES:
    raise DataError(
      f"attention: frames {shape} take {size / 2**30:.0f} GiB; cut the clips or leave it out"
    )
  padded = np.zeros(shape, np.float32)
  for row, found in zip(padded, frames, strict=True):
    row[: len(found)] = found
  return padded, np.arange(shape[1])[None] < counts[:, None]


def _accuracy(
  name: str,
  probe: Probe,
  features: np.ndarray,
  valid: np.ndarray | None,
  labels: np.ndarray,
  groups: Sequence[str],
  cfg: FitConfig,
  seeds: int,
) -> LeftOut:
  folds = checked_folds(features, labels, groups, name)
  check_classes(labels, folds.train, name)
  if folds.train_count.min() < 2:
    raise DataError(f"{name}: a training part of one clip leaves none to stop by")
  inputs = standardised(features, folds, valid)
  targets = targets_of(labels, int(labels.max()) + 1)
  plain = FitConfig(**{f.name: getattr(cfg, f.name) for f in dataclasses.fields(FitConfig)})
  logits = fit_probe(probe, plain, inputs, targets, folds, seeds=seeds, tagged=labels.ndim > 1)
  return left_out(logits, labels, folds, dataclasses.asdict(cfg))
