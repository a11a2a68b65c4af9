"""What sets that list their recordings share: clips by path, parts of them, a split of one's own.

A clip is found by its path without its suffix: copies of a set are often stored in another format.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines import targets as tables
from pipelines.config import DataConfig
from pipelines.decode import AUDIO_SUFFIXES
from pipelines.errors import DataError
from pipelines.sets.base import Objective, TrainingSet, every_id, pick
from pipelines.sources import Source
from pipelines.sources.selected import SelectedSource, rows_of

VALIDATION_SHARE = 0.1  # of a development part that is published whole, where `holdout` is 0


class Clip(NamedTuple):
  """A listed recording: its path below the audio's folder, and its class or its tags."""

  path: str
  labels: tuple[str, ...]


class Listed(NamedTuple):
  """The clips of a part, and where they are."""

  source: Source
  clips: Sequence[Clip]


def listed_set(
  name: str,
  parts: Mapping[str, Listed],
  *,
  classes: Sequence[str] = (),
  objective: Objective = "classes",
  metric: str = "",
  folds: tuple[str, ...] = (),
  fold: str = "",
) -> TrainingSet:
  """The set of these parts.

  Args:
    name: of the set.
    parts: by name; "train" and "test" at least.
    classes: none: those of the training part, in order of the alphabet.
    objective: tags may be any number for each clip, classes are one.
    metric: as in `TrainingSet`.
    folds: as in `TrainingSet`.
    fold: as in `TrainingSet`.

  Raises:
    DataError: a label that is no class, a part of which no recording is there.
  """
  named = {label for clip in parts["train"].clips for label in clip.labels}
  ordered = tuple(classes) or tuple(sorted(named))
  found = {
    part: (_selected(listed, ordered, objective, name, part),) for part, listed in parts.items()
  }
  return TrainingSet(name, ordered, objective, found, folds=folds, fold=fold, metric=metric)


def _selected(
  listed: Listed, classes: tuple[str, ...], objective: Objective, name: str, part: str
) -> SelectedSource:
  source, clips = listed
  known = set(classes)
  for clip in clips:
    if strange := set(clip.labels) - known:
      raise DataError(
        f"{name}: {clip.path} of part {part} has the label {min(strange)!r}, "
        "which no clip of the training part has"
      )
  ids = {without_suffix(one): one for one in every_id(source)}
  wanted = [ids.get(without_suffix(clip.path), clip.path) for clip in clips]
  if objective == "classes":
    return pick(source, wanted, [clip.labels[0] for clip in clips], classes, f"{name} {part}")
  rows, missing = rows_of(source, wanted)
  found = np.flatnonzero(rows >= 0)
  if not len(found):
    raise DataError(f"{name}: none of the recordings of part {part} is in {source.name}")
  return SelectedSource(
    source,
    rows[found],
    name=f"{name} {part}",
    targets=tables.from_names([list(clips[int(i)].labels) for i in found], classes, name),
    classes=list(classes),
    skipped=missing,
  )


def without_suffix(path: str) -> str:
  """The path, or a name, less the suffix of an audio file; other dots stay."""
  suffix = Path(path).suffix
  return path[: -len(suffix)] if suffix.lower() in AUDIO_SUFFIXES else path


def nine_tenths(clips: Sequence[Clip], cfg: DataConfig) -> tuple[list[Clip], list[Clip]]:
  """(training, validation) of a development part that nobody has split, each in its own order.

  The validation part is a tenth, rounded up, or the share `cfg.holdout`: the clips whose paths have
  the lowest hashes, whatever the seed of a run. Runs with several seeds are then judged by the same
  clips.
  """
  count = math.ceil((cfg.holdout or VALIDATION_SHARE) * len(clips))
  ranks = sorted(range(len(clips)), key=lambda i: _hash(clips[i].path))
  held = set(ranks[:count])
  train = [clip for i, clip in enumerate(clips) if i not in held]
  return train, [clips[i] for i in sorted(held)]


def _hash(path: str) -> bytes:
  text = without_suffix(path).encode("utf-8", "surrogateescape")
  return hashlib.blake2b(text, digest_size=8).digest()


def leave_out(
  clips: Iterable[tuple[str, Clip]], folds: Sequence[str], fold: str, name: str, source: Source
) -> dict[str, Listed]:
  """{"train", "test"} of (fold, clip); DataError where the fold is not one of the set's."""
  if fold not in folds:
    raise DataError(f"{name}: fold {fold!r} is not one of {', '.join(folds)}")
  listed = list(clips)
  return {
    "train": Listed(source, [clip for its, clip in listed if its != fold]),
    "test": Listed(source, [clip for its, clip in listed if its == fold]),
  }


def numbered_classes(
  rows: Sequence[Mapping[str, str]], number: str, label: str, place: str
) -> tuple[str, ...]:
  """Class names in order of their numbers, from two columns of a table.

  place: the set and its file, for messages. Raises DataError where a number is none, or where one
  number has two names or the other way round.
  """
  for line, row in enumerate(rows, start=2):
    if not row[number].strip().isdecimal():
      raise DataError(f"{place} line {line}: {number} {row[number]!r} is no number")
  pairs = {(int(row[number]), row[label].strip()) for row in rows}
  classes = dict(pairs)
  if len(pairs) != len(classes) or len(set(classes.values())) != len(classes):
    raise DataError(f"{place} must give every {number} one {label} and every {label} one {number}")
  return tuple(classes[key] for key in sorted(classes))
