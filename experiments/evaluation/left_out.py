"""Classification of frozen features with one group left out at a time.

Each group in turn (a fold, a speaker) is the test part and all others are the training part.
Features are standardised with the mean and deviation of the training part alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipelines.errors import DataError

# (training features f64[n, d], labels i32[n], test features f64[m, d]) -> labels i32[m]
Classify = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class LeftOut:
  """Accuracies in [0, 1]: over all clips, and over the clips of each left-out group."""

  accuracy: float
  per_group: dict[str, float]
  clips: int

  def as_dict(self) -> dict[str, Any]:
    """Plain numbers for JSON."""
    return dataclasses.asdict(self)

  def row(self) -> list[str]:
    """Cells of a table: accuracy in percent, then the lowest and the highest group."""
    low, high = (f(self.per_group, key=self.per_group.__getitem__) for f in (min, max))
    ends = [f"{100 * self.per_group[g]:.1f} ({g})" for g in (low, high)]
    return [f"{100 * self.accuracy:.1f} %", *ends]


def left_out_accuracy(
  features: np.ndarray, labels: np.ndarray, groups: Sequence[str], classify: Classify, name: str
) -> LeftOut:
  """Classifies every clip by what was learnt from the clips of the other groups.

  features f32[n, d], labels i32[n], one group name per clip; `name` begins the messages. Raises
  DataError for features that are not finite, parts that do not belong together, one group alone.
  """
  group = np.asarray(groups)
  names: list[str] = list(dict.fromkeys(group.tolist()))
  features = np.asarray(features, np.float64)
  if features.ndim != 2 or not len(features) == len(labels) == len(group):
    raise DataError(
      f"{name}: features {features.shape}, {len(labels)} labels and {len(group)} groups "
      "do not belong together"
    )
  if not np.isfinite(features).all():
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    raise DataError(f"{name}: the features of {bad} of {len(features)} clips are not finite")
  if len(names) < 2:
    raise DataError(f"{name}: leaving one group out needs two groups or more, found {names}")
  hits = np.zeros(len(labels), bool)
  for left in names:
    test = group == left
    train_x, test_x = standardise(features[~test], features[test])
    hits[test] = classify(train_x, labels[~test], test_x) == labels[test]
  per_group = {left: float(hits[group == left].mean()) for left in names}
  return LeftOut(float(hits.mean()), per_group, len(labels))


def standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Shifts and scales both parts so that each feature of the training part has mean 0, deviation 1.

  A feature that is constant in the training part carries nothing and becomes 0 in both parts.
  """
  mean, deviation = train.mean(axis=0), train.std(axis=0)
  # A constant column may show a deviation of some rounding steps: blowing that up would be noise.
  constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-12)
  scale = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
  return (train - mean) * scale, (test - mean) * scale
