"""Two forward passes side by side: how far apart each stage is, and where they part first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dasheng_jax.errors import WeightsError
from experiments.conversion.stages import LOG_MEL

# Largest difference that float32 rounding explains, as a share of the stage's largest value. What
# is reached against the originals is 1e-5 or less, and with random weights 2e-5 (docs/parity.md).
TOLERANCE = 1e-4
# Decibels up to 100 and few roundings: this is some thousandths of a decibel.
TOLERANCES = {LOG_MEL: 5e-5}
# What weights rounded to half precision may do to a float32 pass: for an export of that type. Seen:
# 7e-3 and 6e-2 in a published and three random networks, most of it in single cells of the maps.
ROUNDED = {"float16": 2e-2, "bfloat16": 1e-1}


class Row(NamedTuple):
  """One compared stage.

  shape: theirs. difference: the largest absolute one. largest: their largest absolute value.
  relative: difference / largest. problem: why it cannot agree whatever the numbers, or "".
  """

  stage: str
  shape: tuple[int, ...]
  difference: float
  largest: float
  relative: float
  tolerance: float
  problem: str = ""

  @property
  def ok(self) -> bool:
    """Whether rounding explains the difference."""
    return not self.problem and self.relative <= self.tolerance


@dataclasses.dataclass(frozen=True)
class Report:
  """All compared stages in order, those that one side alone has, and remarks on the inputs."""

  rows: tuple[Row, ...]
  only_ours: tuple[str, ...] = ()
  only_theirs: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()

  @property
  def ok(self) -> bool:
    """Whether every compared stage agrees."""
    return all(row.ok for row in self.rows)

  @property
  def first_departure(self) -> Row | None:
    """The first stage that does not agree; those behind it follow from it."""
    return next((row for row in self.rows if not row.ok), None)


def compare(
  ours: Mapping[str, np.ndarray],
  theirs: Mapping[str, np.ndarray],
  tolerance: float | None = None,
  notes: Sequence[str] = (),
) -> Report:
  """Compares the stages that both sides have, in our order.

  tolerance: the same for every stage, relative to its largest value; None takes what float32 noise
  explains (`ROUNDED` has values for weights of half precision). Raises WeightsError where the two
  have no stage in common.
  """
  both = [name for name in ours if name in theirs]
  only_theirs = tuple(name for name in theirs if name not in ours)
  if not both:
    there = f"it holds {', '.join(only_theirs[:6])}" if only_theirs else "it holds none"
    raise WeightsError(
      f"nothing to compare: no stage of the model is on the other side ({there}; "
      f"the model has {', '.join(list(ours)[:6])}, ...)"
    )
  rows = []
  for name in both:
    bound = TOLERANCES.get(name, TOLERANCE) if tolerance is None else tolerance
    rows.append(_row(name, np.asarray(ours[name]), np.asarray(theirs[name]), bound))
  only_ours = tuple(name for name in ours if name not in theirs)
  return Report(tuple(rows), only_ours, only_theirs, tuple(notes))


def _row(name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> Row:
  problem = ""
  if ours.shape != theirs.shape:
    problem = f"shape {_shape(ours.shape)} here, {_shape(theirs.shape)} there"
  elif not theirs.size:
    problem = "no values"
  else:
    problem = _odd_values("ours", ours) or _odd_values("theirs", theirs)
  if problem:
    nothing = float("nan")
    return Row(name, theirs.shape, nothing, nothing, nothing, tolerance, problem)
  difference = float(np.abs(np.subtract(ours, theirs, dtype=np.float64)).max())
  largest = float(np.abs(theirs).max())
  relative = difference / largest if largest else (float("inf") if difference else 0.0)
  return Row(name, theirs.shape, difference, largest, relative, tolerance)


def _odd_values(side: str, x: np.ndarray) -> str:
  odd = x.size - int(np.isfinite(x).sum())
  return f"{odd} of {x.size} values of {side} are NaN or infinite" if odd else ""


def _shape(shape: Sequence[int]) -> str:
  return "x".join(map(str, shape)) or "scalar"


def table(report: Report) -> str:
  """The report in markdown: a line for each stage, then the verdict and what was not compared."""
  lines = [
    "| stage | shape | largest difference | largest value | relative | allowed | verdict |",
    "| --- | --- | --- | --- | --- | --- | --- |",
  ]
  for row in report.rows:
    figures = f"{row.difference:.2e} | {row.largest:.4g} | {row.relative:.1e}"
    verdict = "ok" if row.ok else "FAIL" + (f": {row.problem}" if row.problem else "")
    if row.problem:
      figures = "- | - | -"
    lines.append(
      f"| {row.stage} | {_shape(row.shape)} | {figures} | {row.tolerance:.0e} | {verdict} |"
    )
  lines.append("")
  departed = report.first_departure
  if departed is None:
    lines.append(f"verdict: ok, all {len(report.rows)} compared stages agree")
  else:
    failed = sum(not row.ok for row in report.rows)
    lines.append(f"verdict: FAIL in {failed} of {len(report.rows)} compared stages")
    lines.append(f"first departure: {departed.stage}")
  if report.only_ours:
    lines.append(f"not compared (ours alone): {', '.join(report.only_ours)}")
  if report.only_theirs:
    lines.append(f"not compared (theirs alone): {', '.join(report.only_theirs)}")
  return "\n".join([*lines, *(f"note: {note}" for note in report.notes)])
