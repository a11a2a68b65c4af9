"""Clips of X-ARES' own tar files, and of local tasks, as the parts of a task.

A tar is a WebDataset shard: an audio member and a .json member for each key. The package resamples
whole clips, averages channels, and cuts long ones into pieces from the start on.
"""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.evaluation.xares.table import (
  LOCAL,
  NOT_HERE,
  TAG_SEPARATOR,
  TASKS,
  Recipe,
  Row,
)
from pipelines import decode
from pipelines.errors import BadAudio, DataError
from pipelines.tasks import LabelledSet

AUDIO = ("flac", "mp3", "sox", "wav", "m4a", "ogg", "wma")
SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class Task:
  """Labelled clips in parts.

  Attributes:
    name: as the results call it. recipe: how it is scored. weight: in the overall average.
    parts: name -> numbers of the clips of this part; "train", "valid" and "test", or folds.
    targets: i32[n] classes, or f32[n, k] tags, 0 or 1.
    classes: names. ids: one per clip.
    load: (clip, rate in Hz) -> f32[samples], mono, in [-1, 1].
    crop_seconds: length of the pieces that a clip is cut into; 0 leaves it whole.
  """

  name: str
  recipe: Recipe
  weight: int
  parts: dict[str, np.ndarray]
  targets: np.ndarray
  classes: Sequence[str]
  ids: Sequence[str]
  load: Callable[[int, int], np.ndarray]
  crop_seconds: int = 0

  @property
  def folds(self) -> bool:
    """Whether every part is the test part once."""
    return set(self.parts) != set(SPLITS)

  def pieces(self, clip: int, rate: int) -> list[np.ndarray]:
    """The waves that a clip counts as."""
    wave = self.load(clip, rate)
    size = self.crop_seconds * rate
    if not size:
      return [wave]
    whole = len(wave) // size
    if not whole:
      return [np.pad(wave, (0, size - len(wave)))]
    return list(wave[: whole * size].reshape(whole, size))


def local_task(labelled: LabelledSet) -> Task:
  """A local task: its groups are the folds, and its weight is the mean number of clips of one.

  Raises DataError for fewer than two groups.
  """
  groups = np.asarray(labelled.groups)
  names = sorted(set(labelled.groups))
  if len(names) < 2:
    raise DataError(f"{labelled.name}: folds are its groups, and it has {len(names)} of them")
  if labelled.tagged:
    raise DataError(f"{labelled.name}: has tags; local tasks here have one class for each clip")
  return Task(
    labelled.name,
    LOCAL,
    max(1, round(len(groups) / len(names))),
    {name: np.flatnonzero(groups == name) for name in names},
    np.asarray(labelled.labels, np.int32),
    labelled.classes,
    labelled.ids,
    lambda clip, rate: labelled.load(clip, rate),
  )


def tar_task(name: str, folder: str) -> Task:
  """A task of the package, from the folder of its tar files.

  Raises DataError for an unknown name, a part without files, and a clip without audio or label.
  """
  if name in NOT_HERE:
    raise DataError(f"xares/{name}: is not run here ({NOT_HERE[name]})")
  if name not in TASKS:
    raise DataError(f"xares/{name}: no such task; choose from {', '.join(sorted(TASKS))}")
  row, root = TASKS[name], Path(folder).expanduser()
  files = {part: _files(name, root, pattern) for part, pattern in row.parts.items()}
  # Two parts can be the same files, which are read once.
  clips: list[_Clip] = []
  parts: dict[str, np.ndarray] = {}
  ranges: dict[tuple[Path, ...], np.ndarray] = {}
  for part, paths in files.items():
    if paths not in ranges:
      found = [clip for path in paths for clip in _clips(path, row.key)]
      ranges[paths] = np.arange(len(clips), len(clips) + len(found))
      clips += found
    parts[part] = ranges[paths]
    if not len(parts[part]):
      raise DataError(f"xares/{name}: {paths[0]} holds no clip")
  classes, targets = _targets(row, [clip.label for clip in clips])
  return Task(
    name,
    row.recipe,
    row.weight,
    parts,
    targets,
    classes,
    [f"{clip.path.name}/{clip.key}" for clip in clips],
    lambda clip, rate: clips[clip].load(rate),
    row.crop_seconds,
  )


def tasks_in(folder: str) -> list[str]:
  """Names of the tasks that a folder such as the package's `env` holds, in the table's order."""
  root = Path(folder).expanduser()
  found = [name for name in TASKS if any((root / name).glob("*.tar"))]
  if not found:
    raise DataError(f"xares={folder}: no TASK/*.tar in there, such as esc50/wds-audio-fold-1-*.tar")
  return found


class _Clip(NamedTuple):
  path: Path
  key: str
  offset: int
  size: int
  label: Any

  def load(self, rate: int) -> np.ndarray:
    try:
      with self.path.open("rb") as file:
        file.seek(self.offset)
        payload = file.read(self.size)
      frames, _ = decode.header(payload)
      wave, given = decode.read_span(payload, 0, frames)
    except (BadAudio, OSError) as error:
      raise DataError(f"{self.path}: member {self.key!r}: {error}") from None
    return decode.resample(decode.mono(wave), given, rate)


def _files(name: str, root: Path, pattern: str) -> tuple[Path, ...]:
  found = tuple(sorted(root.glob(pattern)))
  if not found:
    raise DataError(f"xares/{name}: no {pattern} in {str(root)!r}")
  return found


def _clips(path: Path, key: str) -> Iterator[_Clip]:
  audio: dict[str, tarfile.TarInfo] = {}
  labels: dict[str, Any] = {}
  try:
    with tarfile.open(path, "r:") as tar:
      for member in tar:
        folder, _, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        stem = f"{folder}/{stem}" if folder else stem
        if not member.isfile():
          continue
        if suffix.lower() == "json":
          labels[stem] = json.load(tar.extractfile(member))  # type: ignore[arg-type]
        elif suffix.lower() in AUDIO:
          audio[stem] = member
  except (tarfile.TarError, ValueError, OSError) as error:
    raise DataError(f"{path}: {error}") from None
  for stem, member in audio.items():
    note = labels.get(stem)
    if not isinstance(note, dict) or key not in note:
      raise DataError(f"{path}: {stem}.json has no {key!r}, which is this task's label")
    yield _Clip(path, stem, member.offset_data, member.size, note[key])


def _targets(row: Row, labels: Sequence[Any]) -> tuple[list[str], np.ndarray]:
  """(classes, targets). Classes are those that occur; their order decides nothing."""
  if row.recipe.metric == "accuracy":
    classes = sorted({str(label) for label in labels})
    number = {name: i for i, name in enumerate(classes)}
    return classes, np.array([number[str(label)] for label in labels], np.int32)
  tags = [set(str(label).split(TAG_SEPARATOR)) for label in labels]
  classes = sorted(set().union(*tags))
  targets = np.array([[name in clip for name in classes] for clip in tags], np.float32)
  return classes, targets
