"""Leave-one-group-out linear probe: multinomial logistic regression on frozen features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.evaluation.left_out import LeftOut, left_out_accuracy
from pipelines.errors import DataError

_STEPS = 2_000  # of the solver, which stops by itself long before


@dataclasses.dataclass(frozen=True)
class LinearResult(LeftOut):
  """Accuracies, and the weight of the loss against the squared weights."""

  c: float


def linear_accuracy(
  features: np.ndarray, labels: np.ndarray, groups: Sequence[str], c: float | int = 1.0
) -> LinearResult:
  """Classifies every clip by logistic regression on the clips of the other groups.

  features f32[n, d], labels i32[n], one group name per clip. `c` weighs the sum of the losses
  against half the squared weights, as in scikit-learn; it is given, not searched for, so nothing of
  the test groups can leak into it. Raises DataError as `left_out_accuracy` does, for a `c` that is
  not positive, and where a training part has one class alone.
  """
  from sklearn.linear_model import LogisticRegression

  if not c > 0:
    raise DataError(f"linear: c={c} must be more than 0")

  def classify(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray) -> np.ndarray:
    if len(np.unique(train_y)) < 2:
      raise DataError("linear: the clips outside one group are all of one class")
    return LogisticRegression(C=c, max_iter=_STEPS).fit(train_x, train_y).predict(test_x)

  found = left_out_accuracy(features, labels, groups, classify, "linear")
  return LinearResult(**vars(found), c=float(c))
