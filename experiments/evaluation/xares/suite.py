"""`evaluate --suite xares`: encoders on X-ARES' own tar files and on local tasks.

Both protocols run on embeddings averaged over time: a linear head (`head`) and k-NN (`neighbours`).
With folds a task's score is the mean over folds; the overall score is the mean over tasks, weighted
as the package weighs them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evaluation import report
from experiments.evaluation.left_out import spread_of
from experiments.evaluation.xares import table
from experiments.evaluation.xares.config import XaresConfig
from experiments.evaluation.xares.head import Rounds, Rows, train_heads
from experiments.evaluation.xares.neighbours import knn_scores
from experiments.evaluation.xares.pooled import Pooled, pooled_task, task_folder
from experiments.evaluation.xares.scores import weighted_average
from experiments.evaluation.xares.tars import Task, local_task, tar_task, tasks_in
from experiments.training.errors import UsageError
from experiments.training.metrics import write_json
from experiments.xares.load import Frames, open_frames
from pipelines.tasks import open_task

HEADER = ("features", "size", "task", "metric", "linear", "last epoch", "k-NN", "weight")
AVERAGE = "weighted average"
SCORES = "scores.json"


def run(
  encoders: Sequence[tuple[str, str]],
  tasks: Sequence[str],
  features: tuple[str, ...],
  cfg: XaresConfig,
  out: Sequence[str] = (),
) -> None:
  """Prints a markdown table and writes it and the scores to the files `out`.

  encoders: (name, weight file). tasks: "xares=FOLDER" for all that a folder of the package's tasks
  holds, "xares/NAME=FOLDER" for the folder of one, else a local task as `open_task` takes it.
  """
  if not encoders:
    raise UsageError("--suite xares scores encoders: give --checkpoint FILE")
  cfg.check()
  # All tasks and encoders are opened before the first clip is embedded: mistakes show at once.
  opened = [task for spec in tasks for task in open_tasks(spec)]
  sources = [
    (name, open_frames(path, features=features, batch_seconds=cfg.batch_seconds))
    for name, path in encoders
  ]
  rows, records = [], []
  for name, source in sources:
    of_encoder = []
    for task in opened:
      of_encoder.append(score_task(name, source, task, cfg))
      print(_line(of_encoder[-1]), file=sys.stderr, flush=True)
    if len(opened) > 1:
      of_encoder.append(_average(name, of_encoder))
    records += of_encoder
    rows += [_row(record) for record in of_encoder]
  text = report.markdown_table(HEADER, rows)
  print(text)
  for path in out:
    report.write_report(path, records, text)


def open_tasks(spec: str) -> list[Task]:
  """The tasks of one value of `--tasks`. Raises DataError for unknown names and unusable data."""
  name, _, path = spec.partition("=")
  if name == "xares":
    return [tar_task(found, str(Path(path) / found)) for found in tasks_in(path)]
  if name.startswith("xares/"):
    return [tar_task(name.removeprefix("xares/"), path)]
  return [local_task(open_task(spec))]


def score_task(name: str, source: Frames, task: Task, cfg: XaresConfig) -> dict[str, Any]:
  """The record of one encoder on one task, from the folder `cfg.work` where that has it."""
  folder = task_folder(cfg.work, name, source, task)
  asked = {"recipe": dataclasses.asdict(task.recipe), "seeds": cfg.seeds, "knn": cfg.knn}
  if folder and (kept := _kept(folder / SCORES, asked)):
    return {**kept, "features": name}
  started = time.monotonic()
  pooled = pooled_task(source, task, folder)
  embedded = time.monotonic()
  found = scored(pooled, task, cfg)
  record = {
    "features": name,
    "size": int(pooled.x.shape[1]),
    "task": task.name,
    "metric": task.recipe.metric,
    "clips": len(task.ids),
    "pieces": len(pooled.x),
    "rounds": len(task.parts) if task.folds else 1,
    "weight": task.weight,
    **found,
    "seconds": {
      "embedding": round(embedded - started, 3),
      "scoring": round(time.monotonic() - embedded, 3),
    },
  }
  if folder:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SCORES, {"asked": asked, "record": record})
  return record


def scored(pooled: Pooled, task: Task, cfg: XaresConfig) -> dict[str, Any]:
  """Both protocols' figures from the embeddings of a task; the deviation is over seeds."""
  rounds = rounds_of(pooled, task)
  targets, count = task.targets[pooled.clip], len(task.classes)
  heads = train_heads(pooled.x, targets, rounds, task.recipe, count, cfg.seeds)
  knn = None
  if task.recipe.knn:
    knn = float(np.mean(knn_scores(pooled.x, targets, rounds, count, cfg.knn)))
  of_seeds = heads.best.mean(axis=0)
  return {
    "linear": float(of_seeds.mean()),
    "linear_deviation": spread_of(of_seeds.tolist()),
    "linear_last": float(heads.last.mean()),
    "per_round": [float(score) for score in heads.best.mean(axis=1)],
    "knn": knn,
  }


def rounds_of(pooled: Pooled, task: Task) -> Rounds:
  """The parts of every round as rows of the embeddings; with folds, validation is the test part."""
  rows = {name: pooled.rows_of(clips) for name, clips in task.parts.items()}
  if not task.folds:
    return Rounds(*(Rows.of([rows[part]]) for part in ("train", "valid", "test")))
  train = [np.concatenate([rows[n] for n in rows if n != left]) for left in rows]
  test = Rows.of(list(rows.values()))
  return Rounds(Rows.of(train), test, test)


def _kept(path: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
    return found["record"] if found["asked"] == asked else None
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _average(name: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
  def of(figure: str) -> float | None:
    pairs = [(r[figure], r["weight"]) for r in records if r[figure] is not None]
    return weighted_average(pairs) if pairs else None

  weight = sum(record["weight"] for record in records)
  figures = {figure: of(figure) for figure in ("linear", "linear_last", "knn")}
  return {"features": name, "task": AVERAGE, "weight": weight, **figures}


def _row(record: dict[str, Any]) -> list[str]:
  task = record["task"]
  return [
    record["features"],
    str(record.get("size", "")),
    table.TASKS[task].title if task in table.TASKS else task,
    record.get("metric", ""),
    _figure(record["linear"]),
    _figure(record["linear_last"]),
    _figure(record["knn"]),
    str(record["weight"]),
  ]


def _line(record: dict[str, Any]) -> str:
  return (
    f"{record['task']}, {record['features']}: linear {_figure(record['linear'])}, "
    f"k-NN {_figure(record['knn'])}"
  )


def _figure(value: float | None) -> str:
  return "" if value is None else f"{value:.4f}"
