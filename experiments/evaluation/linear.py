"""Leave-one-group-out linear probe: multinomial logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.evaluation.folds import standardised, targets_of
from experiments.evaluation.left_out import LeftOut, checked_folds, left_out
from experiments.evaluation.probes.linear import fit_logistic
from pipelines.errors import DataError


def linear_accuracy(
  features: np.ndarray, labels: np.ndarray, groups: Sequence[str], c: float | int = 1.0
) -> LeftOut:
  """Classifies every clip by logistic regression on the clips of the other groups.

  features f32[n, d], labels i32[n] or tags i32[n, classes], one group name per clip. `c` weighs the
  sum of the losses against half the squared weights, as in scikit-learn; it is given, not searched
  for, so nothing of the test groups can leak into it. Raises DataError as `checked_folds` does, for
  a `c` that is not positive, and where a training part has one class alone.
  """
  if not c > 0:
    raise DataError(f"linear: c={c} must be more than 0")
  folds = checked_folds(features, labels, groups, "linear")
  check_classes(labels, folds.train, "linear")
  inputs = standardised(features, folds)
  targets = targets_of(labels, int(labels.max()) + 1)
  logits = fit_logistic(
    inputs.values, inputs.shift, inputs.scale, folds.train, targets, float(c),
    tagged=labels.ndim > 1,
  )  # fmt: skip
  own = np.asarray(logits)[folds.number, np.arange(len(labels))]
  return left_out(own[None], labels, folds, {"c": float(c)})


def check_classes(labels: np.ndarray, train: np.ndarray, name: str) -> None:
  """Raises DataError where the clips of a training part (bool[folds, n]) have one class alone."""
  if labels.ndim == 1 and any(len(np.unique(labels[part])) < 2 for part in train):
    raise DataError(f"{name}: the clips outside one group are all of one class")
