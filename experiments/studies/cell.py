"""One number (or several) of a study: the command that makes it, and where it leaves them."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

# {point: {column: value}}; tables take mean and deviation over points, which are folds or seeds.
Points: TypeAlias = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Cell:
  """A command of this project, and what its result means.

  Attributes:
    name: short and unique within the study.
    prog: the module of `experiments` that is run.
    flags: its command line.
    result: JSON file that the command leaves when it has finished.
    row: of the table; "" for a command that only others need.
    points: what the result's content says.
    needs: cells whose results it reads.
  """

  name: str
  prog: str
  flags: tuple[str, ...]
  result: Path
  row: str = ""
  points: Callable[[Any], Points] = lambda content: {}
  needs: tuple[str, ...] = ()

  @property
  def command(self) -> tuple[str, ...]:
    """Behind the name of the interpreter."""
    return ("-m", f"experiments.{self.prog}", *self.flags)

  @property
  def line(self) -> str:
    """For a shell."""
    return shlex.join(("python", *self.command))

  def read(self) -> Points:
    """The points of a finished cell."""
    return self.points(json.loads(self.result.read_text(encoding="utf-8")))


def scores_of_run(seed: int | None = None) -> Callable[[Any], Points]:
  """Reads report.json of a supervised run: a point for each fold, or one for its seed."""

  def points(content: Any) -> Points:
    reports = content.get("folds")
    if reports is None:
      return {"" if seed is None else f"seed {seed}": _figures(content)}
    return {f"fold {fold}": _figures(report) for fold, report in reports.items()}

  return points


def accuracy_by_group(content: Any) -> Points:
  """Reads the JSON of `experiments.evaluate` with one encoder and one task."""
  (record,) = content
  return {name.replace("fold", "fold "): {"accuracy": x} for name, x in record["per_group"].items()}


def _figures(report: Mapping[str, Any]) -> dict[str, float]:
  return {name: x for name, x in report.items() if isinstance(x, float)}
