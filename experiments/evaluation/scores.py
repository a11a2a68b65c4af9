"""How well outputs over a whole set answer its labels: accuracy, average precision and their kin.

Areas and precisions are scikit-learn's. Classes that a set cannot judge (no positive, or no
negative) are left out of means, and counted.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.errors import DataError


@dataclasses.dataclass(frozen=True)
class Scores:
  """Figures of one model on one set.

  Attributes:
    means: name -> figure, in [0, 1] but for d_prime; the first is the one that papers report.
    per_class: name -> one figure for each class, NaN where the set cannot judge it.
    confusion: [class, predicted class] counts, where clips have one class.
    devices, groups: the same figures of the clips of each recording device, and of groups of such,
      where the set knows them.
  """

  means: dict[str, float]
  per_class: dict[str, np.ndarray]
  confusion: np.ndarray | None = None
  devices: Mapping[str, Scores] = dataclasses.field(default_factory=dict)
  groups: Mapping[str, Scores] = dataclasses.field(default_factory=dict)

  def row(self) -> list[str]:
    """Cells of a table."""
    return [f"{value:.4f}" for value in self.means.values()]


def class_scores(logits: np.ndarray, labels: np.ndarray) -> Scores:
  """Of clips with one class: logits f32[n, k], labels i32[n].

  accuracy over clips; class_accuracy is the mean over classes, and log_loss the mean of -ln p.
  """
  _check(logits, len(labels))
  classes = logits.shape[1]
  if not len(labels) or labels.min() < 0 or labels.max() >= classes:
    raise DataError(f"scores: labels must lie within 0..{classes - 1}, of at least one clip")
  found = np.argmax(logits, axis=1)
  confusion = np.zeros((classes, classes), np.int64)
  np.add.at(confusion, (labels, found), 1)
  total = confusion.sum(axis=1)
  losses = clip_log_loss(logits, labels)
  with np.errstate(invalid="ignore"):
    right = np.where(total > 0, np.diag(confusion) / total, np.nan)
    loss = np.where(total > 0, np.bincount(labels, losses, classes) / total, np.nan)
  return Scores(
    {
      "accuracy": float(np.mean(found == labels)),
      "class_accuracy": float(np.nanmean(right)),
      "log_loss": float(np.mean(losses)),
    },
    {"accuracy": right, "log_loss": loss, "clips": total.astype(np.float64)},
    confusion,
  )


def clip_log_loss(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """-ln p of each clip's class: f64[n], from logits f32[n, k] and labels i32[n]."""
  shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
  log_sum = np.log(np.exp(shifted).sum(axis=1))
  return log_sum - shifted[np.arange(len(labels)), labels]


def tag_scores(logits: np.ndarray, targets: np.ndarray, judged: np.ndarray | None = None) -> Scores:
  """Of clips with tags: logits f32[n, k], targets f32[n, k] above 0.5 or not.

  mAP and roc_auc are means over classes; d_prime is sqrt(2) times the standard normal quantile of
  the mean area; all are NaN where no class has both a positive and a negative clip. judged: [n, k],
  0 where a clip says nothing about a class (OpenMIC).
  """
  from scipy.stats import norm
  from sklearn.metrics import average_precision_score, roc_auc_score

  _check(logits, len(targets))
  if targets.shape != logits.shape or (judged is not None and judged.shape != logits.shape):
    raise DataError(f"scores: targets {targets.shape} do not belong to outputs {logits.shape}")
  positive = targets > 0.5
  weights = np.ones_like(logits) if judged is None else judged
  classes = logits.shape[1]
  precision, area = np.full(classes, np.nan), np.full(classes, np.nan)
  for k in range(classes):
    told = weights[:, k] > 0
    if not told.any() or positive[told, k].all() or not positive[told, k].any():
      continue
    y, score, weight = positive[told, k], logits[told, k], weights[told, k]
    with warnings.catch_warnings():
      warnings.simplefilter("error")  # nothing that it warns of is left
      precision[k] = average_precision_score(y, score, sample_weight=weight)
      area[k] = roc_auc_score(y, score, sample_weight=weight)
  told_classes = ~np.isnan(precision)
  mean_area = float(np.mean(area[told_classes])) if told_classes.any() else math.nan
  return Scores(
    {
      "mAP": float(np.mean(precision[told_classes])) if told_classes.any() else math.nan,
      "roc_auc": mean_area,
      "d_prime": float(math.sqrt(2) * norm.ppf(min(mean_area, 1 - 1e-12))),
      "classes": float(np.sum(told_classes)),
    },
    {"average_precision": precision, "roc_auc": area, "clips": positive.sum(axis=0).astype(float)},
  )


def mean_average_precision_at(logits: np.ndarray, labels: np.ndarray, cut: int = 3) -> float:
  """Of clips with one class: the mean of 1 / rank of the true class, 0 past `cut`.

  logits f32[n, k], labels i32[n]. Tied outputs take the worst of their ranks, as in `lwlrap`.
  """
  _check(logits, len(labels))
  mine = logits[np.arange(len(labels)), labels]
  ranks = np.sum(logits >= mine[:, None], axis=1)
  return float(np.mean(np.where(ranks <= cut, 1.0 / ranks, 0.0)))


def lwlrap(logits: np.ndarray, targets: np.ndarray) -> float:
  """Label-weighted label-ranking average precision: every tag of every clip weighs the same.

  logits f32[n, k], targets f32[n, k] above 0.5 or not. Clips without tags are left out; NaN where
  all are. Tied outputs take the worst of their ranks.
  """
  from sklearn.metrics import label_ranking_average_precision_score

  _check(logits, len(targets))
  positive = targets > 0.5
  count = positive.sum(axis=1)
  told = count > 0
  if not told.any():
    return math.nan
  return float(
    label_ranking_average_precision_score(
      positive[told], logits[told], sample_weight=count[told].astype(np.float64)
    )
  )


def error_rate(logits: np.ndarray, labels: np.ndarray) -> float:
  """Of clips with one class: the share whose highest output is not the true class's."""
  _check(logits, len(labels))
  return float(np.mean(np.argmax(logits, axis=1) != labels))


def _of_one_tag(logits: np.ndarray, targets: np.ndarray) -> float:
  if not np.all(np.sum(targets > 0.5, axis=1) == 1):
    raise DataError("scores: mAP_at_3 is of clips with one tag each")
  return mean_average_precision_at(logits, np.argmax(targets, axis=1))


# What sets may name as their metric beside the figures that all sets of their kind have.
MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
  "mAP_at_3": _of_one_tag,
  "lwlrap": lwlrap,
  "error_rate": error_rate,
}


def with_measure(scores: Scores, metric: str, logits: np.ndarray, labels: np.ndarray) -> Scores:
  """The scores with one of `MEASURES` as their first figure; labels as the set has them."""
  if metric not in MEASURES:
    raise DataError(f"scores: metric {metric!r} is not one of {', '.join(MEASURES)}")
  found = MEASURES[metric](logits, labels)
  return dataclasses.replace(scores, means={metric: found, **scores.means})


def per_class_table(scores: Scores, classes: Sequence[str]) -> list[dict[str, Any]]:
  """One record per class, best first by the first figure; None where the set cannot judge it."""
  names = list(scores.per_class)
  records = [
    {"class": name} | {key: _plain(scores.per_class[key][i]) for key in names}
    for i, name in enumerate(classes)
  ]
  return sorted(records, key=lambda r: (r[names[0]] is None, -(r[names[0]] or 0.0)))


def _plain(value: float) -> float | None:
  return None if math.isnan(value) else float(value)


def _check(logits: np.ndarray, rows: int) -> None:
  if logits.ndim != 2 or len(logits) != rows:
    raise DataError(f"scores: outputs {logits.shape} do not belong to {rows} clips")
  if not np.isfinite(logits).all():
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    raise DataError(f"scores: the outputs of {bad} of {rows} clips are not finite")
