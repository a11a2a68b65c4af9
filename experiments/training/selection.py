"""Early stopping, and the best states of a run: what validations said, and states that they chose.

RUN/best/checks.json         the figure of every validation so far
RUN/best/STEP.safetensors    parameters (their moving average, if there is one) and batch statistics

A run goes on from one of its checkpoints, and what was judged after that is judged again. So a
state stays on disk as long as it is among the best as seen from any checkpoint that is there, or
from now: whichever the run goes on from, it finds what it would have had without a break.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.safetensors_file import read_safetensors, write_safetensors
from experiments.training.errors import RunError, UsageError
from experiments.training.metrics import write_json

FOLDER, CHECKS = "best", "checks.json"
_LOWER = ("loss", "error", "error_rate")  # ends of the names of figures of which less is better
Arrays: TypeAlias = Mapping[str, np.ndarray]  # by path


@dataclasses.dataclass(frozen=True)
class SelectConfig:
  """When a run ends before its time, and which of its states are the trained network.

  Everything is judged by one figure of the validations. A state is better only if it is strictly
  so; a figure that is not finite is worse than any other.
  """

  # which figure: loss, accuracy, mAP and so on, as the run's metrics.jsonl names them; less is
  # better of names that end in loss, error or error_rate, more of all others
  metric: str = "loss"
  patience: int = 0  # validations in a row without a better figure that end the run; 0: none do
  # best states whose mean, batch statistics included, is the trained network; 0: the last state is
  average: int = 0

  def __post_init__(self):
    if not self.metric:
      raise UsageError("--select.metric: name a figure of the validation, such as loss or mAP")
    for name in ("patience", "average"):
      if getattr(self, name) < 0:
        raise UsageError(f"--select.{name} {getattr(self, name)}: it must be 0 (off) or more")

  @property
  def on(self) -> bool:
    """Whether anything is judged at all."""
    return bool(self.patience or self.average)


class Check(NamedTuple):
  """What a validation said of the state after `step` steps."""

  step: int
  figure: float


def due_steps(every: int, last: int, start: int) -> list[int]:
  """Steps up to `start` after which a run of `last` steps is validated, every so many of them."""
  due = list(range(every, start + 1, every)) if every else []
  return due if start < last or last in due else [*due, last]


def ranked(checks: Iterable[Check], metric: str) -> list[Check]:
  """Checks with a finite figure, best first; of equal ones the earlier comes first."""
  sign = 1 if metric.endswith(_LOWER) else -1
  finite = [check for check in checks if math.isfinite(check.figure)]
  return sorted(finite, key=lambda check: (sign * check.figure, check.step))


def without_gain(checks: Sequence[Check], metric: str) -> int:
  """Checks since the best one; all of them where none has a finite figure."""
  best = ranked(checks, metric)
  return len(checks) - (checks.index(best[0]) + 1 if best else 0)


def kept_steps(
  checks: Sequence[Check], metric: str, count: int, checkpoints: Iterable[int]
) -> set[int]:
  """Steps whose states stay: the best `count` as seen from each checkpoint, and from now."""
  seen = [checks, *([c for c in checks if c.step <= step] for step in checkpoints)]
  return {check.step for past in seen for check in ranked(past, metric)[:count]}


class Selection:
  """The checks of one run and its best states in `folder`; every process of a run has one.

  Args:
    folder: of the run's best states; made when the first is written.
    cfg: what is selected.
    start: step after which the run goes on; what was checked later is forgotten.
    due: steps up to `start` at which validations were due.
    active: whether this process writes.

  Raises:
    RunError: the checks of a run that goes on are absent, damaged or incomplete.
  """

  def __init__(
    self, folder: Path, cfg: SelectConfig, start: int, due: Sequence[int], active: bool = True
  ):
    self.folder, self.cfg, self.active = folder, cfg, active
    self.checks: list[Check] = []
    self.behind = False  # whether the disk did not take the latest checks
    if not cfg.on or not due:
      return
    self.checks = [c for c in read_checks(folder) if c.step <= start]
    if [check.step for check in self.checks] != list(due):
      raise RunError(
        f"{folder / CHECKS}: lacks some of the {len(due)} validations up to step {start}, by which "
        "states are chosen; put the file back, or start anew in another --workdir"
      )

  @property
  def stopped(self) -> bool:
    """Whether patience has ended."""
    if not self.cfg.patience:
      return False
    return without_gain(self.checks, self.cfg.metric) >= self.cfg.patience

  @property
  def verdict(self) -> str:
    """Why the run ends."""
    best = ranked(self.checks, self.cfg.metric)
    than = f"than {best[0].figure:.4f} of step {best[0].step}" if best else "that is finite"
    return f"no {self.cfg.metric} better {than} in {self.cfg.patience} validations"

  @property
  def best(self) -> tuple[Check, ...]:
    """The checks whose states are averaged, best first; without averaging the best one."""
    return tuple(ranked(self.checks, self.cfg.metric)[: max(self.cfg.average, 1)])

  def note(self, step: int, figures: Mapping[str, float]) -> bool:
    """Takes note of a validation; whether its state is to be written.

    Raises UsageError where the validation has no such figure.
    """
    if not self.cfg.on:
      return False
    if self.cfg.metric not in figures:
      raise UsageError(
        f"--select.metric {self.cfg.metric}: the validation has {', '.join(figures)}; choose one "
        "of these and start anew"
      )
    self.checks.append(Check(step, float(figures[self.cfg.metric])))
    return bool(self.cfg.average) and step in {check.step for check in self.best}

  def write(self, state: Arrays | None, checkpoints: Iterable[int]) -> None:
    """Writes the state of the last check, if there is one to keep, and the checks; sweeps the rest.

    Each file is replaced in one piece, the state before the checks that name it. Raises OSError
    where the disk does not take it.
    """
    if not self.active or not self.cfg.on:
      return
    self.folder.mkdir(parents=True, exist_ok=True)
    self.behind = True
    try:
      if state is not None:
        _write_state(self._path(self.checks[-1].step), state, self.checks[-1], self.cfg.metric)
    finally:  # a run can do without a state, which is then left out, but not without checks
      rows = [check._asdict() for check in self.checks]
      write_json(self.folder / CHECKS, {"metric": self.cfg.metric, "checks": rows})
    self.behind = False
    self.sweep(checkpoints)

  def sweep(self, checkpoints: Iterable[int]) -> None:
    """Removes the states that are no longer needed."""
    if not self.active or not self.cfg.on or not self.folder.is_dir():
      return
    kept = kept_steps(self.checks, self.cfg.metric, self.cfg.average, checkpoints)
    for path in self.folder.glob("*.safetensors*"):
      step = path.name.split(".")[0]
      if step.isdigit() and not (int(step) in kept and path.suffix == ".safetensors"):
        path.unlink(missing_ok=True)

  def _path(self, step: int) -> Path:
    return self.folder / f"{step}.safetensors"


def read_checks(folder: Path) -> list[Check]:
  """The checks that a run has written, oldest first.

  Raises RunError where the file is absent or damaged.
  """
  path = folder / CHECKS
  try:
    rows = json.loads(path.read_text(encoding="utf-8"))["checks"]
    return [Check(int(row["step"]), float(row["figure"])) for row in rows]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise RunError(
      f"{path}: absent or damaged ({type(error).__name__}), and by it states are chosen; put the "
      "file back, or start anew in another --workdir"
    ) from None


def read_state(folder: Path, step: int) -> Arrays:
  """The arrays of a state by path, as they were written.

  Raises RunError where the file is absent or damaged.
  """
  path = folder / f"{step}.safetensors"
  try:
    arrays, notes = read_safetensors(path)
    if notes.get("checksum") != _checksum(arrays):
      raise WeightsError("its checksum differs")
  except (WeightsError, OSError) as error:
    reason = str(error).removeprefix(f"{path}: ")
    raise RunError(f"{path}: absent or damaged ({reason}); put a copy of it back") from None
  return arrays


def mean_state(states: Sequence[Arrays]) -> Arrays:
  """The mean of every array of fractions; whole numbers are those of the first state.

  Sums are in double precision. Source: reference text of the weakly supervised taggers, section 3;
  batch statistics are averaged too.
  """

  def mean(name: str, first: np.ndarray) -> np.ndarray:
    if first.dtype.kind in "biu":
      return first
    total = sum(np.asarray(arrays[name], np.float64) for arrays in states)
    return np.asarray(total / len(states)).astype(first.dtype)

  return {name: mean(name, np.asarray(first)) for name, first in states[0].items()}


def _write_state(path: Path, arrays: Arrays, check: Check, metric: str) -> None:
  notes = {"step": str(check.step), metric: repr(check.figure), "checksum": _checksum(arrays)}
  write_safetensors(path, arrays, notes)


def _checksum(arrays: Arrays) -> str:
  value = 0
  for name in sorted(arrays):
    value = zlib.crc32(name.encode(), value)
    value = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), value)
  return f"{value:08x}"
