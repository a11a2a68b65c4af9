"""Leave-one-group-out k-nearest-neighbour classification of frozen features.

There is nothing to tune, so the accuracy speaks of the features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.evaluation.folds import standardised, targets_of
from experiments.evaluation.left_out import LeftOut, checked_folds, left_out
from experiments.evaluation.probes.knn import METRICS, neighbour_votes
from pipelines.errors import DataError


def knn_accuracy(
  features: np.ndarray,
  labels: np.ndarray,
  groups: Sequence[str],
  k: int = 10,
  metric: str = "cosine",
) -> LeftOut:
  """Classifies every clip from the k nearest clips of the other groups.

  features f32[n, d], labels i32[n] or tags i32[n, classes], one group name per clip. Votes count
  equally; a tie goes to the lower class number. Of tags, the share of the votes is the score.
  Raises DataError as `checked_folds` does, and for a wrong k or metric.
  """
  if metric not in METRICS:
    raise DataError(f"knn: unknown metric {metric!r}; choose {' or '.join(METRICS)}")
  folds = checked_folds(features, labels, groups, "knn")
  smallest = int(folds.train_count.min())
  if not 1 <= k <= smallest:
    raise DataError(f"knn: k={k} must lie within 1..{smallest}, the smallest training part")
  inputs = standardised(features, folds)
  targets = targets_of(labels, int(labels.max()) + 1)
  votes = neighbour_votes(
    inputs.values, inputs.shift, inputs.scale, folds.train, folds.test_rows, targets,
    k=k, metric=metric,  # type: ignore[arg-type]
  )  # fmt: skip
  found = folds.gather(np.asarray(votes))
  return left_out(found[None], labels, folds, {"k": k, "metric": metric})
