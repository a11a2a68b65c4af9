"""The rows of a study: mean and deviation over folds or seeds, paired gains, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.evaluation.report import markdown_table
from experiments.studies.cell import Points
from experiments.studies.picture import points_by_row


class Gain(NamedTuple):
  """A row of differences: `better` minus `worse`, point by point."""

  row: str
  better: str
  worse: str


def with_gains(rows: Mapping[str, Points], gains: Sequence[Gain]) -> dict[str, Points]:
  """The rows, and one more for each gain over the points that both of its rows have."""
  found = dict(rows)
  for gain in gains:
    better, worse = rows[gain.better], rows[gain.worse]
    found[gain.row] = {
      point: {c: x - worse[point][c] for c, x in values.items() if c in worse[point]}
      for point, values in better.items()
      if point in worse
    }
  return found


def study_table(
  rows: Mapping[str, Points],
  columns: Sequence[str],
  seconds: Mapping[str, float],
  beside: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
  """Markdown: for each row and column the mean, its deviation over points, lowest and highest.

  columns: which figures; those named `accuracy` or `score`, or ending so, are in percent. seconds:
  that each row took; rows without are left blank. beside: further columns, {column: {row: text}}.
  """
  more = beside or {}
  header = ["", *(_title(c) for c in columns), *more, "lowest", "highest", "points", "time"]
  table = []
  for row, points in rows.items():
    cells = [_spread([p[c] for p in points.values() if c in p], c) for c in columns]
    ends = [p[columns[0]] for p in points.values()]
    low, high = (_number(f(ends), columns[0]) for f in (min, max))
    time = f"{seconds[row] / 60:.1f} min" if row in seconds else ""
    told = [text.get(row, "") for text in more.values()]
    table.append([row, *cells, *told, low, high, str(len(points)), time])
  return markdown_table(header, table)


def draw_study(rows: Mapping[str, Points], column: str, path: Path, title: str) -> Path:
  """Every point of every row, and the means."""
  scale = 100 if _percent(column) else 1
  values = {row: [scale * p[column] for p in points.values()] for row, points in rows.items()}
  return points_by_row(values, path, label=_title(column), title=title)


def _percent(column: str) -> bool:
  return column.endswith(("accuracy", "score"))


def _title(column: str) -> str:
  name = column.replace("_", " ")
  return f"{name}, %" if _percent(column) else name


def _number(x: float, column: str) -> str:
  return f"{100 * x:.1f}" if _percent(column) else f"{x:.3f}"


def _spread(values: Sequence[float], column: str) -> str:
  if not values:
    return ""
  mean = _number(float(np.mean(values)), column)
  if len(values) < 2:
    return mean
  return f"{mean} ± {_number(float(np.std(values, ddof=1)), column)}"
