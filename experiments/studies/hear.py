"""The tables of the embedding study: features of one network, and networks of growing width.

Source: Schmid, Koutini, Widmer, "Low-Complexity Audio Embedding Extractors" (2023), table II and
the figure of its widths; their scores are percent of the best system of HEAR 2021, means over
tasks. Every row is one command of the suite `hear`; its points are tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.evaluation.hear.run import chosen
from experiments.evaluation.hear.tasks import GROUPS, TASKS
from experiments.studies.cell import Cell, Points
from experiments.studies.config import StudyConfig
from experiments.studies.study import Study
from experiments.training import cli
from experiments.training.errors import UsageError

# As the paper names them: low level, middle level, and the classifier's layers.
FEATURES: dict[str, tuple[str, ...]] = {
  "L": ("mel",),
  "M_B": ("blocks",),
  "M_SE": ("se",),
  "H_Clf1": ("clf1",),
  "H_Clf2": ("clf2",),
  "H_Clf3": ("logits",),
  "M_B+L": ("blocks", "mel"),
  "M_B+M_SE": ("blocks", "se"),
  "M_B+H_Clf1": ("blocks", "clf1"),
  "M_B+H_Clf2": ("blocks", "clf2"),
  "M_B+H_Clf3": ("blocks", "logits"),
}
WIDTHS = ("mn01", "mn02", "mn05", "mn10", "mn20", "mn30", "mn40")
COLUMNS = ("all", *GROUPS)


def hear_features(cfg: StudyConfig) -> Study:
  """Table II: what of one network to take."""
  if not cfg.init:
    raise UsageError("--init is missing: the weights of one MN, such as mn10_as_mAP_471.pt")
  cells = [_cell(cfg, name, cfg.init, features) for name, features in FEATURES.items()]
  return _study(cells, "hear_features", "percent of the best of HEAR 2021, every task a point")


def hear_widths(cfg: StudyConfig) -> Study:
  """The figure: the same features of networks of growing width, whose files are in one folder."""
  folder = Path(cfg.init).expanduser()
  if not cfg.init or not folder.is_dir():
    raise UsageError("--init: name a folder with the weights of mn01_as to mn40_as")
  cells = []
  for name in WIDTHS:
    found = sorted(path for path in folder.iterdir() if path.name.startswith(f"{name}_as_mAP"))
    if len(found) != 1:
      raise UsageError(f"--init {folder}: {len(found)} files named {name}_as_mAP..., expected one")
    cells.append(_cell(cfg, name, str(found[0]), FEATURES["M_B+L"]))
  return _study(cells, "hear_widths", "percent of the best of HEAR 2021, every task a point")


def _cell(cfg: StudyConfig, row: str, weights: str, features: Sequence[str]) -> Cell:
  name, _, tasks = cfg.data.partition("=")
  if name != "hear" or not tasks:
    raise UsageError("--data: name the benchmark's folders, as in --data hear=FOLDER")
  out = Path(cfg.out)
  result = out / f"{row}.json"
  flags = ("--suite", "hear", "--checkpoint", weights, "--features", *features)
  where = ("--hear.tasks", tasks, "--hear.out", str(out / row), "--out", str(result))
  return Cell(row, "evaluate", (*flags, *where, *cfg.more), result, row, points)


def points(content: Any) -> Points:
  """A point for each task that the table of HEAR has: under "all" and under its group."""
  found: dict[str, Mapping[str, float]] = {}
  for record in content:
    if record["percent_of_best"] is not None:
      percent = record["percent_of_best"]
      found[record["task"]] = {"all": percent, record["group"]: percent}
  if not found:
    raise UsageError("--data hear=FOLDER: none of the tasks of HEAR 2021's table could be scored")
  return found


def _check_tasks(cell: Cell) -> None:
  """UsageError where a table would be empty, as no task has a known best to be a percentage of."""
  from experiments.evaluate import EvaluateConfig  # the program that cells run

  cfg = cli.parse(cell.flags, {"knn": EvaluateConfig()}, prog=cell.prog, default="knn").hear
  folders = chosen(cfg)
  if not any(folder.key and TASKS[folder.key].best is not None for folder in folders):
    raise UsageError(
      f"--data hear={cfg.tasks}: holds none of the tasks of HEAR 2021's table; found "
      f"{', '.join(folder.path.name for folder in folders)}"
    )


def _study(cells: Sequence[Cell], name: str, title: str) -> Study:
  return Study(
    cells=tuple(cells),
    columns=COLUMNS,
    title=title,
    name=name,
    check=functools.partial(_check_tasks, cells[0]),
  )
