"""Leaving one group out at a time: who learns from what, in arrays that one program takes.

A probe gets the features of all clips once, and for each fold which of them it may learn from.
Standardisation differs from fold to fold, because it comes from the training part alone; it is two
vectors for each fold, so that no copy of the features is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from pipelines.errors import DataError


@dataclasses.dataclass(frozen=True)
class Folds:
  """The groups of a set.

  Attributes:
    names: of the groups, in the order of their first clips.
    number: i32[n], the group of each clip.
    train: bool[folds, n], the clips of the other groups.
    train_rows: i32[folds, most], their numbers; behind `train_count` come zeros.
    test_rows: i32[folds, most], numbers of the clips of the group, likewise.
    train_count, test_count: i32[folds].
  """

  names: tuple[str, ...]
  number: np.ndarray
  train: np.ndarray
  train_rows: np.ndarray
  test_rows: np.ndarray
  train_count: np.ndarray
  test_count: np.ndarray

  @classmethod
  def of(cls, groups: Sequence[str], name: str = "evaluation") -> Folds:
    """The folds of clips with one group name each; `name` begins the message of a DataError."""
    names = tuple(dict.fromkeys(groups))
    if len(names) < 2:
      raise DataError(
        f"{name}: leaving one group out needs two groups or more, found {list(names)}"
      )
    places = {group: i for i, group in enumerate(names)}
    number = np.array([places[group] for group in groups], np.int32)
    train = number[None] != np.arange(len(names))[:, None]
    return cls(
      names,
      number,
      train,
      train_rows=_rows(train),
      test_rows=_rows(~train),
      train_count=train.sum(axis=1, dtype=np.int32),
      test_count=(~train).sum(axis=1, dtype=np.int32),
    )

  def gather(self, outputs: np.ndarray) -> np.ndarray:
    """Outputs f32[..., folds, most, k] of the test rows as f32[..., n, k], in the clips' order."""
    found = np.zeros((*outputs.shape[:-3], len(self.number), outputs.shape[-1]), np.float32)
    for fold, count in enumerate(self.test_count):
      found[..., self.test_rows[fold, :count], :] = outputs[..., fold, :count, :]
    return found


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Features as probes take them: (values - shift[fold]) * scale[fold] is standardised.

  Attributes:
    values: f32[n, d] of clips, or f32[n, t, d] of their frames, moved by one vector for precision.
    valid: bool[n, t], which frames there are; None for clips.
    shift, scale: f32[folds, d].
  """

  values: np.ndarray
  valid: np.ndarray | None
  shift: np.ndarray
  scale: np.ndarray


def standardised(features: np.ndarray, folds: Folds, valid: np.ndarray | None = None) -> Inputs:
  """Mean 0 and deviation 1 of each feature over the training part of each fold.

  features: [n, d], or [n, t, d] with `valid` bool[n, t], where every valid frame counts alike. A
  feature that is constant in a training part carries nothing there and gets the scale 0.
  """
  there = np.ones(features.shape[:1], bool) if valid is None else valid
  centre = features[there].mean(axis=0, dtype=np.float64)
  values = np.where(there[..., None], features - centre, 0.0)
  # Sums over the frames of each clip, in float64; those of a fold are sums of these.
  axes = tuple(range(1, values.ndim - 1))
  count = there.sum(axis=axes).astype(np.float64)
  total, squares = values.sum(axis=axes), np.square(values).sum(axis=axes)
  learnt = folds.train.astype(np.float64)
  counts = (learnt @ count)[:, None]
  shift = learnt @ total / counts
  deviation = np.sqrt(np.maximum(learnt @ squares / counts - np.square(shift), 0.0))
  # A constant column may show a deviation of some rounding steps: blowing that up would be noise.
  constant = deviation <= 1e-6 * np.maximum(np.abs(shift + centre), 1e-12)
  scale = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
  return Inputs(
    values.astype(np.float32), valid, shift.astype(np.float32), scale.astype(np.float32)
  )


def targets_of(labels: np.ndarray, classes: int) -> np.ndarray:
  """f32[n, classes]: one-hot of labels i32[n]; tags i32[n, classes] as they are."""
  if labels.ndim > 1:
    return labels.astype(np.float32)
  return np.eye(classes, dtype=np.float32)[labels]


def _rows(member: np.ndarray) -> np.ndarray:
  rows = np.zeros((len(member), member.sum(axis=1).max()), np.int32)
  for row, inside in zip(rows, member, strict=True):
    found = np.flatnonzero(inside)
    row[: len(found)] = found
  return rows
