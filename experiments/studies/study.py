"""A study: its cells, and how their figures become a table and a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
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
    name: of the files; studies that share cells may share a folder.
    beside: further columns of the table, as text by row: {column: {row: text}}.
    check: raises what would otherwise show when all cells have run; not called where they have.
  """

  cells: tuple[Cell, ...]
  columns: tuple[str, ...]
  title: str
  gains: tuple[Gain, ...] = ()
  name: str = "study"
  beside: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
  check: Callable[[], None] = lambda: None


def run_study(study: Study, out: Path) -> str:
  """Runs what is left, writes a table, a picture and the figures by name, and returns the table.

  Cells of one row may have figures of the same points: those of a teacher and of its student.
  """
  if not all(cell.result.exists() for cell in study.cells):
    study.check()
  took = run_cells(study.cells, out)
  rows: dict[str, dict] = {}
  seconds: dict[str, float] = {}
  for cell in study.cells:
    if cell.row:
      found = rows.setdefault(cell.row, {})
      for point, values in cell.read().items():
        found[point] = {**found.get(point, {}), **values}
      seconds[cell.row] = seconds.get(cell.row, 0.0) + took[cell.name]
  whole: dict[str, Points] = with_gains(rows, study.gains)
  table = study_table(whole, study.columns, seconds, study.beside)
  (out / f"{study.name}.md").write_text(table + "\n", encoding="utf-8")
  drawn = {row: points for row, points in whole.items() if row in rows}
  draw_study(drawn, study.columns[0], out / f"{study.name}.png", study.title)
  write_json(out / f"{study.name}.json", {"rows": whole, "seconds": took})
  return table
