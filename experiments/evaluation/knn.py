"""Leave-one-group-out k-nearest-neighbour classification of frozen features.

Each group in turn (a fold, a speaker) is the test part and all others are the training part.
Features are standardised with the mean and deviation of the training part alone. There is nothing
to tune, so the accuracy speaks of the features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from pipelines.errors import DataError

METRICS = ("cosine", "euclidean")


@dataclasses.dataclass(frozen=True)
class KnnResult:
  """Accuracies in [0, 1]: over all clips, and over the clips of each left-out group."""

  accuracy: float
  per_group: dict[str, float]
  clips: int
  k: int
  metric: str

  def as_dict(self) -> dict:
    """Plain numbers for JSON."""
    return dataclasses.asdict(self)

  def row(self) -> list[str]:
    """Cells of a table: accuracy in percent, then the lowest and the highest group."""
    low, high = (f(self.per_group, key=self.per_group.__getitem__) for f in (min, max))
    ends = [f"{100 * self.per_group[g]:.1f} ({g})" for g in (low, high)]
    return [f"{100 * self.accuracy:.1f} %", *ends]


def knn_accuracy(
  features: np.ndarray,
  labels: np.ndarray,
  groups: Sequence[str],
  k: int = 10,
  metric: str = "cosine",
) -> KnnResult:
  """Classifies every clip from the k nearest clips of the other groups.

  features f32[n, d], labels i32[n], one group name per clip. Votes count equally; a tie goes to the
  lower class number. Raises DataError for features that are not finite, one group alone, a wrong k
  or metric.
  """
  from sklearn.neighbors import KNeighborsClassifier

  group = np.asarray(groups)
  names: list[str] = list(dict.fromkeys(group.tolist()))
  features = np.asarray(features, np.float64)
  if features.ndim != 2 or not len(features) == len(labels) == len(group):
    raise DataError(
      f"knn: features {features.shape}, {len(labels)} labels and {len(group)} groups "
      "do not belong together"
    )
  if not np.isfinite(features).all():
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    raise DataError(f"knn: the features of {bad} of {len(features)} clips are not finite")
  if len(names) < 2:
    raise DataError(f"knn: leaving one group out needs two groups or more, found {names}")
  if metric not in METRICS:
    raise DataError(f"knn: unknown metric {metric!r}; choose {' or '.join(METRICS)}")
  smallest = len(labels) - max(int((group == name).sum()) for name in names)
  if not 1 <= k <= smallest:
    raise DataError(f"knn: k={k} must lie within 1..{smallest}, the smallest training part")

  hits = np.zeros(len(labels), bool)
  for name in names:
    test = group == name
    train_x, test_x = standardise(features[~test], features[test])
    model = KNeighborsClassifier(n_neighbors=k, metric=metric, algorithm="brute")
    hits[test] = model.fit(train_x, labels[~test]).predict(test_x) == labels[test]
  per_group = {name: float(hits[group == name].mean()) for name in names}
  return KnnResult(float(hits.mean()), per_group, len(labels), k, metric)


def standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Shifts and scales both parts so that each feature of the training part has mean 0, deviation 1.

  A feature that is constant in the training part carries nothing and becomes 0 in both parts.
  """
  mean, deviation = train.mean(axis=0), train.std(axis=0)
  # A constant column may show a deviation of some rounding steps: blowing that up would be noise.
  constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-12)
  scale = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
  return (train - mean) * scale, (test - mean) * scale
