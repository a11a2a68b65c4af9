"""The suite `hear` of `experiments.evaluate`: models, tasks, and the two tables at the end.

    python -m experiments.evaluate --suite hear --checkpoint mn10_as_mAP_471.pt \
      --hear.tasks FOLDER --hear.out runs/hear --out runs/hear.json

FOLDER holds the benchmark's own prepared tasks. What is finished is not made again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.evaluation.hear.config import HearConfig
from experiments.evaluation.hear.embeddings import Hears, embed_parts
from experiments.evaluation.hear.folder import TaskFolder, find_folders
from experiments.evaluation.hear.normalise import ALL, group_means, percent_of_best
from experiments.evaluation.hear.scores import load_sed_eval
from experiments.evaluation.hear.task import Search, run_task
from experiments.evaluation.hear.tasks import GROUPS, TASKS
from experiments.evaluation.report import markdown_table, write_report
from experiments.training.entry import say
from experiments.training.errors import UsageError

HEADER = ("features", "size", "task", "group", "score", "test", "of the best, %")


def run_hear(
  cfg: HearConfig, models: Sequence[tuple[str, Callable[[], Hears]]], out: Sequence[str] = ()
) -> None:
  """Prints a table of tasks and one of groups; writes them and all scores to the files `out`.

  models: names, which are folders of `cfg.out` too, and what opens them.
  """
  cfg.check()
  folders = chosen(cfg)
  if any(folder.events for folder in folders):
    load_sed_eval()
  together = candidates_together(cfg.side_by_side)
  search = Search(points=cfg.grid_points, seed=cfg.seed, side_by_side=together)
  search.grid.drawn(search.points)  # a wrong number shows before the first clip
  records = []
  for name, opened in models:
    model, results = opened(), []
    for number, folder in enumerate(folders, 1):
      began = time.monotonic()
      say(f"hear: {name}, {number}/{len(folders)} {folder.path.name}")
      where = Path(cfg.out) / name / folder.path.name
      parts = embed_parts(folder, model, where / "embeddings")
      result = run_task(folder, parts, search, where)
      size = next(iter(parts.values())).x.shape[1]
      results.append(_record(name, size, folder, result))
      say(f"hear: {name}, {folder.path.name} took {time.monotonic() - began:.0f} s")
    records += _joined(results)
  table = f"{task_table(records)}\n\n{group_table(records)}"
  print(table)
  for path in out:
    write_report(path, records, table)


def candidates_together(asked: int) -> int:
  """`Search.side_by_side` of what a command is told, of which -1 goes by the kind of device."""
  if asked < 0:
    return 1 if jax.default_backend() == "cpu" else 0
  return asked


def task_table(records: Sequence[Mapping[str, Any]]) -> str:
  """Markdown: a row for each model and task."""
  return markdown_table(HEADER, [_row(record) for record in records])


def group_table(records: Sequence[Mapping[str, Any]]) -> str:
  """Markdown: a row for each model, percent of the best by group; how many are missing shows."""
  rows = []
  for name in dict.fromkeys(record["features"] for record in records):
    mine = [r for r in records if r["features"] == name and r["value"] is not None]
    means = group_means({r["task"]: r["value"] for r in mine if r["task"] in TASKS})
    size = str(next(r["size"] for r in records if r["features"] == name))
    rows.append([name, size, *(means[group].cell() for group in (*GROUPS, ALL))])
  return markdown_table(("features", "size", *GROUPS, ALL), rows)


def chosen(cfg: HearConfig) -> list[TaskFolder]:
  """The folders that are asked for, by task, `task_name` or folder name.

  Raises DataError for a folder without tasks, UsageError for a name that is not there.
  """
  folders, only = find_folders(cfg.tasks), cfg.only
  if not only:
    return folders
  found, asked = [], set(only)
  for folder in folders:
    names = {folder.key, folder.name, folder.path.name} & asked
    if names:
      found.append(folder)
      only = tuple(name for name in only if name not in names)
  if only:
    there = ", ".join(folder.key or folder.path.name for folder in folders)
    raise UsageError(f"--hear.only {only[0]}: not there; found: {there}")
  return found


def _record(name: str, size: int, folder: TaskFolder, result: Mapping[str, Any]) -> dict[str, Any]:
  task = folder.key or folder.path.name
  # d' is infinite where all is right, and some figures are NaN where a part cannot be judged
  scores = {k: v if math.isfinite(v) else None for k, v in result["scores"].items()}
  return {
    "features": name,
    "size": size,
    "task": task,
    "group": TASKS[task].group if task in TASKS else None,
    "score": folder.scores[0],
    "value": scores[folder.scores[0]],
    "scores": scores,
  }


def _joined(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """One record for each task, the mean of a task's folders, with its percent of the best."""
  joined = []
  for task in dict.fromkeys(result["task"] for result in results):
    mine = [result for result in results if result["task"] == task]
    values = [result["value"] for result in mine]
    value = None if None in values else float(np.mean(values))
    scores = {
      name: None if None in figures else float(np.mean(figures))
      for name in mine[0]["scores"]
      for figures in [[result["scores"][name] for result in mine]]
    }
    percent = None if value is None else percent_of_best(task, value)
    joined.append({**mine[0], "value": value, "scores": scores, "percent_of_best": percent})
  return joined


def _row(record: Mapping[str, Any]) -> list[str]:
  value, percent = record["value"], record["percent_of_best"]
  return [
    record["features"],
    str(record["size"]),
    record["task"],
    record["group"] or "-",
    record["score"],
    "-" if value is None else f"{value:.4f}",
    "-" if percent is None else f"{percent:.2f}",
  ]
