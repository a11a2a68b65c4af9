"""Leave-one-group-out k-nearest-neighbour classification of frozen features.

There is nothing to tune, so the accuracy speaks of the features.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from experiments.evaluation.left_out import LeftOut, left_out_accuracy
from pipelines.errors import DataError

METRICS = ("cosine", "euclidean")


@dataclasses.dataclass(frozen=True)
class KnnResult(LeftOut):
  """Accuracies, and how many neighbours voted by which distance."""

  k: int
  metric: str


def knn_accuracy(
  features: np.ndarray,
  labels: np.ndarray,
  groups: Sequence[str],
  k: int = 10,
  metric: str = "cosine",
) -> KnnResult:
  """Classifies every clip from the k nearest clips of the other groups.

  features f32[n, d], labels i32[n], one group name per clip. Votes count equally; a tie goes to the
  lower class number. Raises DataError as `left_out_accuracy` does, and for a wrong k or metric.
  """
  from sklearn.neighbors import KNeighborsClassifier

  if metric not in METRICS:
    raise DataError(f"knn: unknown metric {metric!r}; choose {' or '.join(METRICS)}")
  smallest = len(groups) - max(Counter(groups).values(), default=0)
  if smallest and not 1 <= k <= smallest:
    raise DataError(f"knn: k={k} must lie within 1..{smallest}, the smallest training part")

  def vote(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray) -> np.ndarray:
    model = KNeighborsClassifier(n_neighbors=k, metric=metric, algorithm="brute")
    return model.fit(train_x, train_y).predict(test_x)

  found = left_out_accuracy(features, labels, groups, vote, "knn")
  return KnnResult(**vars(found), k=k, metric=metric)
