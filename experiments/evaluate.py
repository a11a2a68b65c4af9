r"""Evaluates frozen encoders on labelled sets, beside features that need no training.

    python -m experiments.evaluate --checkpoint encoder.safetensors --rivals \
      --tasks spoken_digits=FOLDER esc10=FOLDER synthetic
    python -m experiments.evaluate --suite linear --tasks esc10=FOLDER \
      --checkpoint mn04_as_mAP_432.pt

Encoders are Dasheng, MN or DyMN. Every suite leaves out one group (a speaker, a fold) at a time and
learns from the others: `knn` lets the nearest neighbours vote, `linear` fits a logistic regression.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.embedding.load import is_dasheng, open_embedder
from experiments.evaluation import report
from experiments.evaluation.embed import Pooling, embed_set
from experiments.evaluation.knn import knn_accuracy
from experiments.evaluation.left_out import LeftOut
from experiments.evaluation.linear import linear_accuracy
from experiments.evaluation.rivals import RIVALS, log_mel_statistics
from experiments.evaluation.scenes import scene_set
from experiments.training import cli
from experiments.training.errors import UsageError
from pipelines.tasks import LabelledSet, open_task

HEADER = ("features", "size", "task", "accuracy", "lowest group", "highest group")
Features = Callable[[LabelledSet], np.ndarray]


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
  """What to evaluate, on what, and how."""

  suite: Literal["knn", "linear"] = "knn"  # the way of evaluating
  checkpoint: tuple[str, ...] = ()  # encoders: weight files, or folders of Dasheng runs
  # of MN and DyMN: some of blocks, mel, se, clf1, clf2, logits, all_blocks, b0 to b15
  features: tuple[str, ...] = ("blocks", "mel")
  tasks: tuple[str, ...] = ("synthetic",)  # NAME=FOLDER, or synthetic
  rivals: bool = False  # also evaluate features that need no training
  pooling: Pooling = "mean"  # of Dasheng's output over time
  k: int = 10  # neighbours that vote
  metric: Literal["cosine", "euclidean"] = "cosine"  # distance between clips
  c: float = 1.0  # of the linear suite: the losses' weight against half the squared weights
  out: str = ""  # also write the results here, as .json, .csv or .md


def main(cfg: EvaluateConfig) -> None:
  """Prints a markdown table, a row for each encoder or rival and task; writes `out` if asked."""
  if not cfg.checkpoint and not cfg.rivals:
    raise UsageError("nothing to evaluate: give --checkpoint FILE, or --rivals, or both")
  if not cfg.tasks:
    raise UsageError("--tasks is empty: give NAME=FOLDER, or synthetic")
  if cfg.k < 1:
    raise UsageError(f"--k {cfg.k}: at least one neighbour must vote")
  if not cfg.c > 0:
    raise UsageError(f"--c {cfg.c:g}: it must be more than 0")
  if cfg.out:
    report.check_output(cfg.out)
  # All tasks and encoders are opened before the first clip is embedded: mistakes show at once.
  tasks = [open_task(spec) for spec in cfg.tasks]
  encoders = [(name_of(path, cfg.checkpoint), encoder(path, cfg)) for path in cfg.checkpoint]
  rivals = list(rival_features()) if cfg.rivals else []
  rows, records = [], []
  for task in tasks:
    # The clips are decoded once for each sample rate, however many encoders there are.
    held = task.in_memory() if len(encoders) + len(rivals) > 1 else task
    for name, features in encoders + rivals:
      vectors = features(held)
      result = accuracy(cfg, vectors, held)
      rows.append([name, str(vectors.shape[1]), task.name, *result.row()])
      records.append(record(name, task, vectors, result))
      print(f"{task.name}, {name}: {result.row()[0]}", file=sys.stderr, flush=True)
  table = report.markdown_table(HEADER, rows)
  print(table)
  if cfg.out:
    report.write_report(cfg.out, records, table)


def accuracy(cfg: EvaluateConfig, vectors: np.ndarray, task: LabelledSet) -> LeftOut:
  """The configured suite's result for features f32[n, d] of a task's clips."""
  if cfg.suite == "linear":
    return linear_accuracy(vectors, task.labels, task.groups, cfg.c)
  return knn_accuracy(vectors, task.labels, task.groups, cfg.k, cfg.metric)


def encoder(path: str, cfg: EvaluateConfig) -> Features:
  """Features of an encoder read from a weight file or a checkpoint folder."""
  if not is_dasheng(Path(path).expanduser(), ""):
    return functools.partial(scene_set, open_embedder(path, features=cfg.features))
  import dasheng_jax

  # A clip's features must not depend on the loudest clip that happens to share its batch.
  embed, params = dasheng_jax.load_encoder(path, clamp="sample")
  return lambda task: embed_set(embed, params, task, cfg.pooling)


def rival_features() -> Iterator[tuple[str, Features]]:
  """Name and features of every rival."""
  for name, mel in RIVALS.items():
    yield name, functools.partial(log_mel_statistics, cfg=mel)


def name_of(path: str, paths: tuple[str, ...]) -> str:
  """The last part of a path, or all of it where that would not tell two encoders apart."""
  short = os.path.basename(os.path.normpath(path))
  return short if sum(os.path.basename(os.path.normpath(p)) == short for p in paths) == 1 else path


def record(name: str, task: LabelledSet, vectors: np.ndarray, result: LeftOut) -> dict[str, Any]:
  """One result for JSON or CSV."""
  return {"features": name, "size": int(vectors.shape[1]), "task": task.name} | result.as_dict()


if __name__ == "__main__":
  cli.run_main(
    main,
    {"knn": EvaluateConfig()},
    prog="evaluate",
    default="knn",
    description=(__doc__ or "").split("\n")[0],
  )
