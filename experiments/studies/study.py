"""A study: its cells, and how their figures become a table and a picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments.studies.cell import Cell, Points
from experiments.studies.loop import run_cells
from experiments.studies.table import Gain, draw_study, study_table, with_gains
from experiments.training.metrics import write_json


@dataclasses.dataclass(frozen=True)
class Study:
  """What is run and what is shown.

  Attributes:
    cells: in the order in which they run.
    columns: figures of the table; the first is also drawn.
    title: of the picture.
    gains: rows of differences.
  """

  cells: tuple[Cell, ...]
  columns: tuple[str, ...]
  title: str
  gains: tuple[Gain, ...] = ()


def run_study(study: Study, out: Path) -> str:
  """Runs what is left, writes study.json, study.md and study.png, and returns the table."""
  took = run_cells(study.cells, out)
  rows: dict[str, dict] = {}
  seconds: dict[str, float] = {}
  for cell in study.cells:
    if cell.row:
      rows.setdefault(cell.row, {}).update(cell.read())
      seconds[cell.row] = seconds.get(cell.row, 0.0) + took[cell.name]
  whole: dict[str, Points] = with_gains(rows, study.gains)
  table = study_table(whole, study.columns, seconds)
  (out / "study.md").write_text(table + "\n", encoding="utf-8")
  drawn = {row: points for row, points in whole.items() if row in rows}
  draw_study(drawn, study.columns[0], out / "study.png", study.title)
  write_json(out / "study.json", {"rows": whole, "seconds": took})
  return table
