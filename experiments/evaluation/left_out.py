"""Scores of clips that were classified by what the other groups taught.

Each group in turn (a fold, a speaker) is the test part and all others are the training part.
Features are standardised with the mean and deviation of the training part alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.evaluation.folds import Folds
from experiments.evaluation.scores import tag_scores
from pipelines.errors import DataError


@dataclasses.dataclass(frozen=True)
class LeftOut:
  """Figures of one probe on one set.

  Attributes:
    measure: accuracy for clips with one class, over all of them; mAP for tags, a mean over groups.
    value: in [0, 1], a mean over seeds.
    per_group: the same of the clips of each left-out group that can be judged.
    clips: number of them.
    seeds: values of the seeds, where the probe draws anything; else one value.
    settings: of the probe, for JSON.
  """

  measure: str
  value: float
  per_group: dict[str, float]
  clips: int
  seeds: tuple[float, ...]
  settings: dict[str, Any]

  @property
  def accuracy(self) -> float:
    """The value, where that is what was measured."""
    assert self.measure == "accuracy"
    return self.value

  @property
  def spread(self) -> float | None:
    """`spread_of` the seeds."""
    return spread_of(self.seeds)

  def as_dict(self) -> dict[str, Any]:
    """Plain values for JSON; the value under the name of the measure."""
    spread = {} if self.spread is None else {"spread": self.spread, "seeds": list(self.seeds)}
    found = {"measure": self.measure, self.measure: self.value, **spread}
    return {**found, "per_group": self.per_group, "clips": self.clips, **self.settings}

  def ends(self) -> tuple[str, str]:
    """The groups with the lowest and with the highest figure."""
    low, high = (f(self.per_group, key=self.per_group.__getitem__) for f in (min, max))
    return low, high

  def row(self) -> list[str]:
    """Cells of a table: the figure in percent, then the lowest and the highest group."""
    ends = [f"{100 * self.per_group[group]:.1f} ({group})" for group in self.ends()]
    return [self.figure(), *ends]

  def figure(self) -> str:
    """Such as "91.2 %", or "91.2 ± 0.4 %" over seeds."""
    spread = "" if self.spread is None else f" ± {100 * self.spread:.1f}"
    return f"{100 * self.value:.1f}{spread} %"


def spread_of(seeds: Sequence[float]) -> float | None:
  """Standard deviation of the values of seeds, which are a sample: divisor n - 1; None for one."""
  return float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None


def checked_folds(
  features: np.ndarray, labels: np.ndarray, groups: Sequence[str], name: str
) -> Folds:
  """The folds of features [n, d] or [n, t, d], labels and one group name per clip.

  `name` begins the messages. Raises DataError for features that are not finite, parts that do not
  belong together, one group alone.
  """
  if features.ndim not in (2, 3) or not len(features) == len(labels) == len(groups):
    raise DataError(
      f"{name}: features {features.shape}, {len(labels)} labels and {len(groups)} groups "
      "do not belong together"
    )
  finite = np.isfinite(features).reshape(len(features), -1).all(axis=1)
  if not finite.all():
    bad = int((~finite).sum())
    raise DataError(f"{name}: the features of {bad} of {len(features)} clips are not finite")
  return Folds.of(list(groups), name)


def left_out(
  outputs: np.ndarray, labels: np.ndarray, folds: Folds, settings: dict[str, Any]
) -> LeftOut:
  """Scores outputs f32[seeds, n, classes], higher for likelier classes; a tie goes to the lower."""
  inside = {name: folds.number == i for i, name in enumerate(folds.names)}
  score, measure = (_mean_precision, "mAP") if labels.ndim > 1 else (_accuracy, "accuracy")
  groups = {
    name: [score(found[rows], labels[rows]) for found in outputs] for name, rows in inside.items()
  }
  per_group = {
    name: float(np.mean(values)) for name, values in groups.items() if np.isfinite(values).all()
  }
  if not per_group:
    raise DataError("evaluation: no group has clips with a tag and clips without it")
  if measure == "accuracy":
    seeds = [score(found, labels) for found in outputs]
  else:  # outputs of different folds are of different classifiers: they share no threshold
    seeds = [float(np.mean([groups[name][i] for name in per_group])) for i in range(len(outputs))]
  value = float(np.mean(seeds))
  return LeftOut(measure, value, per_group, len(labels), tuple(seeds), settings)


def _accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
  from sklearn.metrics import accuracy_score

  return float(accuracy_score(labels, outputs.argmax(axis=-1)))


def _mean_precision(outputs: np.ndarray, labels: np.ndarray) -> float:
  return tag_scores(outputs, labels.astype(np.float32)).means["mAP"]
