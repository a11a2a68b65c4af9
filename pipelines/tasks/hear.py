"""Tasks of the HEAR benchmark, as its own preprocessing writes them (Turian et al. 2022).

Layout: `task_metadata.json`, `labelvocabulary.csv` (idx, label), `SPLIT.json` and
`{rate}/SPLIT/*.wav` for every split, in a folder or in the archive that is published. `HearFolder`
is all of that; `hear` makes a `LabelledSet` of a task whose splits are folds.
"""

from __future__ import annotations

import atexit
import csv
import dataclasses
import functools
import json
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import DataError
from pipelines.tasks.labelled import SAMPLE_RATE, LabelledSet, file_content, read_wave

METADATA, VOCABULARY = "task_metadata.json", "labelvocabulary.csv"
ARCHIVES = (".tar.gz", ".tgz", ".tar")
FOLDED = ("new_split_kfold", "presplit_kfold")  # split modes whose splits are folds


@dataclasses.dataclass(frozen=True)
class HearFolder:
  """One task on disk.

  Attributes:
    path: the folder that holds task_metadata.json.
    metadata: its content; among others `task_name`, `embedding_type` (scene or event),
      `prediction_type` (multiclass or multilabel), `split_mode` and `evaluation`.
    classes: the labels, in the order of their numbers.
    splits: such as train, valid and test, or fold00 to fold04.
    rates: Hz, the sample rates that audio is stored at, ascending.
  """

  path: Path
  metadata: Mapping[str, Any]
  classes: tuple[str, ...]
  splits: tuple[str, ...]
  rates: tuple[int, ...]

  @classmethod
  def open(cls, path: str) -> HearFolder:
    """Opens a task's folder, one folder above it, or an archive (.tar.gz, .tgz, .tar).

    An archive is unpacked to a temporary folder, which is deleted when the process ends. Raises
    DataError for what is no single task.
    """
    folder = _task_folder(path)
    metadata = _read_json(folder / METADATA)
    splits = metadata.get("splits")
    if not splits or not isinstance(splits, list):
      raise DataError(f"hear: {str(folder / METADATA)!r} names no splits")
    rates = sorted(int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdecimal())
    if not rates:
      raise DataError(f"hear: no audio in {str(folder)!r}; it needs a folder such as 48000/")
    classes = _read_vocabulary(folder / VOCABULARY)
    return cls(folder, metadata, classes, tuple(map(str, splits)), tuple(rates))

  @property
  def name(self) -> str:
    """Of the task."""
    return str(self.metadata.get("task_name", self.path.name))

  def labels(self, split: str) -> dict[str, list[Any]]:
    """What SPLIT.json says: {file: labels}, or {file: [{label, start, end}]} with times in ms."""
    found = _read_json(self.path / f"{split}.json")
    wrong = next((name for name, values in found.items() if not isinstance(values, list)), None)
    if wrong is not None:
      raise DataError(f"hear: {split}.json of {str(self.path)!r}: {wrong!r} has no list of labels")
    return found

  def numbers(self, split: str, labels: Sequence[Any]) -> list[int]:
    """Places of labels in `classes`. Raises DataError for one that the vocabulary lacks."""
    known = _numbers(self.classes)
    odd = next((label for label in labels if str(label) not in known), None)
    if odd is not None:
      raise DataError(f"hear: {self.name}, {split}: label {odd!r} is not in {VOCABULARY}")
    return [known[str(label)] for label in labels]

  def file(self, split: str, name: str, rate: int) -> Path:
    """The file to make `rate` Hz from: of that rate, else the next higher one, else the highest."""
    stored = next((r for r in self.rates if r >= rate), self.rates[-1])
    return self.path / str(stored) / split / name

  def read(self, split: str, name: str, rate: int = SAMPLE_RATE) -> np.ndarray:
    """A clip as f32[samples], mono, in [-1, 1], resampled where no file has that rate."""
    return read_wave(self.file(split, name, rate), rate)


def hear(path: str) -> LabelledSet:
  """A task of whole clips, with one class each or tags, split in folds, which are the groups."""
  task = HearFolder.open(path)
  kind = (task.metadata.get("embedding_type"), task.metadata.get("prediction_type"))
  if kind not in (("scene", "multiclass"), ("scene", "multilabel")):
    raise DataError(
      f"hear: {task.name} asks for {kind[1]} answers about {kind[0]}s; this reads whole clips with "
      "one class each or tags"
    )
  if task.metadata.get("split_mode") not in FOLDED:
    raise DataError(
      f"hear: {task.name} is split into {', '.join(task.splits)}; leaving groups out needs folds"
    )
  clips = [
    (split, name, told) for split in task.splits for name, told in task.labels(split).items()
  ]
  numbers = [task.numbers(split, told) for split, _, told in clips]
  if kind[1] == "multiclass":
    odd = next((name for _, name, told in clips if len(told) != 1), None)
    if odd is not None:
      raise DataError(f"hear: {task.name}: clip {odd!r} must have one label")
    labels = np.array([number for (number,) in numbers], np.int32)
  else:
    labels = np.zeros((len(clips), len(task.classes)), np.int32)
    for row, found in zip(labels, numbers, strict=True):
      row[found] = 1
  return LabelledSet(
    name=f"hear {task.name}",
    ids=[f"{split}/{name}" for split, name, _ in clips],
    labels=labels,
    groups=[split for split, _, _ in clips],
    classes=task.classes,
    load=lambda i, rate=SAMPLE_RATE: task.read(*clips[i][:2], rate),
    content=lambda i: "-".join(file_content(task.file(*clips[i][:2], r)) for r in task.rates),
  )


def _task_folder(path: str) -> Path:
  given = Path(path).expanduser()
  if path and given.is_file() and given.name.endswith(ARCHIVES):
    stat = given.stat()
    folder = _unpacked(given.resolve(), stat.st_size, stat.st_mtime_ns)
  elif path and given.is_dir():
    folder = given
  else:
    raise DataError(
      f"hear: no folder at {path!r}; give the folder that holds {METADATA}, or its "
      f"{ARCHIVES[0]} archive"
    )
  if (folder / METADATA).is_file():
    return folder
  found = sorted(p.parent for p in folder.rglob(METADATA))
  if not found:
    raise DataError(f"hear: no {METADATA} in {path!r}")
  if len(found) > 1:
    names = ", ".join(str(p.relative_to(folder)) for p in found[:3])
    raise DataError(f"hear: {path!r} holds {len(found)} tasks ({names}); name one of them")
  return found[0]


@functools.cache
def _unpacked(archive: Path, size: int, changed: int) -> Path:
  """A temporary folder with the archive's content. size, changed: so that a new one is unpacked."""
  del size, changed
  folder = tempfile.mkdtemp(prefix="hear-")
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  try:
    with tarfile.open(archive) as tar:
      tar.extractall(folder, filter="data")
  except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
    shutil.rmtree(folder, ignore_errors=True)
    raise DataError(f"hear: {str(archive)!r} cannot be unpacked: {error}") from None
  return Path(folder)


def _read_json(path: Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise DataError(f"hear: {str(path)!r} cannot be read: {error}") from None
  if not isinstance(found, dict):
    raise DataError(f"hear: {str(path)!r} holds a {type(found).__name__}, not an object")
  return found


def _read_vocabulary(path: Path) -> tuple[str, ...]:
  try:
    with path.open(newline="", encoding="utf-8") as file:
      rows = list(csv.DictReader(file))
    numbered = {int(row["idx"]): row["label"] for row in rows}
  except (OSError, ValueError, KeyError, TypeError):
    raise DataError(f"hear: {str(path)!r} must be a table of idx and label") from None
  if not rows or sorted(numbered) != list(range(len(rows))):
    raise DataError(f"hear: {str(path)!r} must number its labels from 0 on")
  return tuple(numbered[i] for i in range(len(rows)))


@functools.cache
def _numbers(classes: tuple[str, ...]) -> dict[str, int]:
  return {label: i for i, label in enumerate(classes)}
