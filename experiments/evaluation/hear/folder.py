"""What a task's folder says of its parts, its scores and its training (`task_metadata.json`).

`pipelines.tasks.hear` reads labels and audio. Source: `hearpreprocess` and `heareval` 2021.1.3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.evaluation.hear.grid import TASK_GRIDS, Grid
from experiments.evaluation.hear.tasks import TASKS, key_of
from pipelines.errors import DataError
from pipelines.tasks.hear import FOLDED, METADATA, HearFolder

TAGS = {"multilabel": True, "multiclass": False}
EVENTS = {"event": True, "scene": False}
FOLDS = {"trainvaltest": False, **dict.fromkeys(FOLDED, True)}
# Names of the public package's grid that a folder may change, and ours.
_CHANGES = {"check_val_every_n_epoch": "check_every", "max_epochs": "max_epochs"}
# What is tried where a folder does not say: milliseconds.
_POSTPROCESSING = {"median_filter_ms": [250], "min_duration": [125, 250]}


class Event(NamedTuple):
  """One sound of a recording: its label, onset and offset in ms."""

  label: str
  start: float
  end: float


class Split(NamedTuple):
  """Parts that teach, that choose, and that are tested."""

  train: tuple[str, ...]
  valid: str
  test: str


@dataclasses.dataclass(frozen=True)
class TaskFolder:
  """One task as the benchmark prepares it.

  Attributes:
    source: the folder itself.
    name, mode: `task_name` and `mode`, which together say what of `TASKS` it is.
    events: whether embeddings and labels are over time.
    tags: whether there may be several labels, or none.
    parts: train, valid and test, or the folds.
    folds: whether parts are left out in turn.
    scores: names, the first of which selects, stops and counts.
    by_loss: stopped and selected by the validation loss in place of the first score.
    postprocessing: (median filter, least duration) of events in ms, those that are tried.
    changes: fields of `Grid` that this task has otherwise.
  """

  source: HearFolder
  name: str
  mode: str
  events: bool
  tags: bool
  parts: tuple[str, ...]
  folds: bool
  scores: tuple[str, ...]
  by_loss: bool
  postprocessing: tuple[tuple[float, float], ...]
  changes: Mapping[str, int]

  @property
  def path(self) -> Path:
    """Of the folder."""
    return self.source.path

  @property
  def labels(self) -> tuple[str, ...]:
    """In the order of their numbers."""
    return self.source.classes

  @property
  def key(self) -> str | None:
    """Of `TASKS`; None for a folder that is of none, such as a small one."""
    return key_of(self.name, self.mode)

  @property
  def splits(self) -> tuple[Split, ...]:
    """One, or one for each fold: the fold after the tested one chooses, all others teach."""
    if not self.folds:
      return (Split(("train",), "valid", "test"),)
    parts = sorted(self.parts)
    chosen = [(test, parts[(i + 1) % len(parts)]) for i, test in enumerate(parts)]
    return tuple(
      Split(tuple(p for p in parts if p not in (test, valid)), valid, test)
      for test, valid in chosen
    )

  def grid(self, grid: Grid) -> Grid:
    """The grid with what this task has otherwise."""
    changes: dict[str, Any] = {**TASK_GRIDS.get(self.name, {}), **self.changes}
    return dataclasses.replace(grid, **changes)

  def truth(self, part: str) -> dict[str, Any]:
    """{file: labels} of a part as text, or {file: events}, in the file's order."""
    found: dict[str, Any] = {}
    for file, given in self.source.labels(part).items():
      if self.events:
        found[file] = [Event(str(e["label"]), float(e["start"]), float(e["end"])) for e in given]
        self.source.numbers(part, [event.label for event in found[file]])
      else:
        found[file] = tuple(str(label) for label in given)
        self.source.numbers(part, given)
        if not self.tags and len(given) != 1:
          raise DataError(f"{self.path / part}.json: {file} has {len(given)} labels, not one")
    if not found:
      raise DataError(f"{self.path / part}.json: no clips")
    return found

  def truth_of(self, files: Sequence[str]) -> dict[str, Any]:
    """The labels or events of some files, of whatever parts; DataError where two share a name."""
    found: dict[str, Any] = {}
    for part in self.parts:
      for file, told in self.truth(part).items():
        if file in found:
          raise DataError(f"{self.path / part}.json: {file} is in another part too")
        found[file] = told
    return {file: found[file] for file in files}

  def load(self, part: str, file: str, rate: int) -> np.ndarray:
    """One clip, f32[samples] at `rate` Hz."""
    return self.source.read(part, file, rate)


def find_folders(root: str | Path) -> list[TaskFolder]:
  """The tasks in a folder of folders by name, or the one that it is, or whose archive it is."""
  root = Path(root).expanduser()
  found = sorted(root.glob(f"*/{METADATA}")) if root.is_dir() else []
  return [open_folder(path.parent) for path in found] or [open_folder(root)]


def open_folder(path: str | Path) -> TaskFolder:
  """What a task's folder says of it.

  Raises DataError for a damaged folder, and for one that is not what the benchmark's task of its
  name is.
  """
  source = HearFolder.open(str(path))
  where, told = source.path / METADATA, source.metadata
  try:
    params = told.get("evaluation_params", {})
    post = params.get("event_postprocessing_grid", _POSTPROCESSING)
    folder = TaskFolder(
      source=source,
      name=told["task_name"],
      mode=told["mode"],
      events=EVENTS[told["embedding_type"]],
      tags=TAGS[told["prediction_type"]],
      parts=source.splits,
      folds=FOLDS[told["split_mode"]],
      scores=tuple(told["evaluation"]),
      by_loss=not told.get("use_scoring_for_early_stopping", True),
      postprocessing=tuple((m, d) for m in post["median_filter_ms"] for d in post["min_duration"]),
      changes=_changes(params.get("task_specific_param_grid", {}), where),
    )
  except (KeyError, TypeError) as error:
    raise DataError(f"{where}: {error} is missing or unknown; is the folder HEAR 2021's?") from None
  _check(folder)
  return folder


def _check(folder: TaskFolder) -> None:
  if not folder.scores or not folder.labels:
    raise DataError(f"{folder.path}: a task needs scores and labels")
  if folder.folds and len(folder.parts) < 3:
    raise DataError(f"{folder.path}: {len(folder.parts)} folds; at least three are needed")
  if not folder.folds and set(folder.parts) != {"train", "valid", "test"}:
    raise DataError(f"{folder.path}: parts {folder.parts} are not train, valid and test")
  if folder.events and not folder.tags:
    raise DataError(f"{folder.path}: sounds over time are told as multilabel alone")
  if folder.by_loss and folder.events and len(folder.postprocessing) != 1:
    raise DataError(f"{folder.path}: without scores there can be one postprocessing alone")
  if folder.key:
    task = TASKS[folder.key]
    expected = (task.events, task.tags, task.score, task.folds)
    found = (folder.events, folder.tags, folder.scores[0], len(folder.parts) * folder.folds)
    if expected != found:
      raise DataError(
        f"{folder.path}: (events, tags, score, folds) are {found}; of HEAR's {folder.key} they are "
        f"{expected}"
      )


def _changes(grid: Mapping[str, Any], where: Path) -> dict[str, int]:
  changes = {}
  for name, values in grid.items():
    if name not in _CHANGES or not isinstance(values, list) or len(values) != 1:
      raise DataError(f"{where}: task_specific_param_grid has {name}={values}, which is unknown")
    changes[_CHANGES[name]] = int(values[0])
  return changes
