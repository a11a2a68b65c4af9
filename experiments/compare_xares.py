r"""X-ARES' two protocols here and in the public package `xares`, on the same averaged embeddings.

    python -m experiments.compare_xares --checkpoint mn04_as_mAP_432.pt --task esc10=FOLDER \
      --torch_python TORCH_VENV/bin/python --out xares.json

Both sides get one embedding for each clip, and heads with an output for each class that occurs.
The package trains its heads seed by seed; here all seeds are one program, which runs again after
each seed of the package, so that whatever else the machine does falls on both. k-NN has no seeds.
The package runs in a process of its own on the CPU. What to install: docs/xares.md.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import packages
from experiments.benchmarks.contender import Contender
from experiments.benchmarks.serve import timed
from experiments.evaluation.encoders import FEATURES
from experiments.evaluation.left_out import spread_of
from experiments.evaluation.report import markdown_table
from experiments.evaluation.xares import suite
from experiments.evaluation.xares.head import train_heads
from experiments.evaluation.xares.neighbours import knn_scores
from experiments.evaluation.xares.package_files import write_package_files
from experiments.evaluation.xares.pooled import Pooled, pooled_task, task_folder
from experiments.evaluation.xares.tars import Task
from experiments.training import cli
from experiments.training.entry import say
from experiments.training.errors import UsageError
from experiments.training.metrics import write_json
from experiments.xares.load import open_frames
from pipelines.progress import Progress

THERE, HERE = packages.XARES.name, "here"
PROTOCOLS = ("linear", "knn")
HEADER = ("protocol", "who", "score", "deviation", "processor, s", "clock, s")


@dataclasses.dataclass(frozen=True)
class CompareConfig:
  """What to compare on, and where the results go."""

  checkpoint: str = ""  # weight file of the encoder
  features: tuple[str, ...] = FEATURES  # of MN and DyMN
  task: str = ""  # as of evaluate --suite xares: NAME=FOLDER, xares/NAME=FOLDER
  work: str = ""  # a folder that keeps embeddings; as --xares.work
  seeds: int = 4  # of the heads: 0, 1, ...
  package: tuple[str, ...] = ()  # folders that hold the package, or what it needs
  torch_python: str = ""  # Python that has PyTorch and the package, if not this one
  threads: int = 0  # of the package; 0: as many as cores, which is what this library takes
  out: str = ""  # .json: every turn


def main(cfg: CompareConfig) -> None:
  """Embeds the task, takes all turns, and prints the table."""
  _check(cfg)
  tasks = suite.open_tasks(cfg.task)
  if len(tasks) != 1:
    raise UsageError(f"--task {cfg.task}: holds {len(tasks)} tasks; name one, xares/NAME=FOLDER")
  task, threads = tasks[0], cfg.threads or packages.usable_cores()
  source = open_frames(cfg.checkpoint, features=cfg.features)
  with packages.worker_of(packages.XARES, cfg.torch_python, cfg.package, threads) as worker:
    of_package = packages.check(worker, packages.XARES, cfg.torch_python)
    name = Path(cfg.checkpoint).name
    pooled = pooled_task(source, task, task_folder(cfg.work, name, source, task))
    about = {
      **packages.about(threads),
      "package": of_package,
      "encoder": name,
      "task": task.name,
      "pieces": len(pooled.x),
      "size": int(pooled.x.shape[1]),
      "classes": len(task.classes),
      "rounds": len(task.parts) if task.folds else 1,
    }
    turns: list[dict[str, Any]] = []
    for turn in taken(task, pooled, cfg.seeds, worker):
      turns.append(turn)
      if cfg.out:
        write_json(Path(cfg.out), {"about": about, "turns": turns})
  print(table(turns))


def _check(cfg: CompareConfig) -> None:
  for name in ("checkpoint", "task"):
    if not getattr(cfg, name):
      raise UsageError(f"--{name} is missing: --checkpoint FILE --task NAME=FOLDER")
  if cfg.seeds < 1 or cfg.threads < 0:
    raise UsageError("--seeds: at least 1; --threads: 0 or more")
  if cfg.out:
    packages.check_output(cfg.out)


def taken(task: Task, pooled: Pooled, seeds: int, worker: Contender) -> Iterator[dict[str, Any]]:
  """One turn after the other: protocol, who, scores (one for each seed), seconds of both kinds.

  The package has a turn for each seed. Here every turn trains all seeds; the first one compiles.
  """
  rounds, count = suite.rounds_of(pooled, task), len(task.classes)
  targets, recipe = task.targets[pooled.clip], task.recipe

  def linear() -> list[float]:
    best = train_heads(pooled.x, targets, rounds, recipe, count, seeds).best
    return [float(score) for score in best.mean(axis=0)]

  def knn() -> list[float]:
    return [float(np.mean(knn_scores(pooled.x, targets, rounds, count)))]

  order = [("linear", seed) for seed in range(seeds)]
  order += [("knn", seed) for seed in (0, 1) if recipe.knn]  # twice: the first one here compiles
  with (
    tempfile.TemporaryDirectory(prefix="xares-") as folder,
    Progress("compare_xares", 2 * len(order), "turns") as bar,
  ):
    files = write_package_files(task, pooled, Path(folder))
    request = {
      "parts": {name: str(path) for name, path in files.items()},
      "folds": task.folds,
      "size": int(pooled.x.shape[1]),
      "classes": count,
      **{key: getattr(recipe, key) for key in ("epochs", "batch_size", "learning_rate", "metric")},
    }
    for protocol, seed in order:
      told = packages.ask(worker, packages.XARES, {**request, "protocol": protocol, "seed": seed})
      yield _said({"protocol": protocol, "who": THERE, "scores": [told.pop("score")], **told})
      bar.add()
      scores, times = timed({"linear": linear, "knn": knn}[protocol])
      yield _said({"protocol": protocol, "who": HERE, "scores": scores, **times})
      bar.add()


def _said(turn: dict[str, Any]) -> dict[str, Any]:
  scores = " ".join(f"{score:.4f}" for score in turn["scores"])
  say(f"compare_xares: {turn['protocol']}, {turn['who']}: {scores}, {turn['seconds']:.2f} s")
  return turn


def table(turns: Sequence[Mapping[str, Any]]) -> str:
  """Markdown: both protocols on both sides; times are of all seeds together.

  The first turn here compiles; another row has the median time of those that follow.
  """
  rows = []
  for protocol in PROTOCOLS:
    there, ours = (
      [turn for turn in turns if turn["protocol"] == protocol and turn["who"] == who]
      for who in (THERE, HERE)
    )
    if not there or not ours:
      continue
    if protocol == "knn":  # the same again, once everything is read
      there = there[-1:]
    of_seeds = [score for turn in there for score in turn["scores"]]
    rows.append([protocol, THERE, *_scores(of_seeds), *_times(there, np.sum)])
    rows.append([protocol, HERE, *_scores(ours[0]["scores"]), *_times(ours[:1], np.sum)])
    if ours[1:]:
      rows.append([protocol, f"{HERE}, compiled", "", "", *_times(ours[1:], np.median)])
  return markdown_table(HEADER, rows)


def _scores(scores: Sequence[float]) -> list[str]:
  """[mean, deviation over seeds]; k-NN has the same score in every turn."""
  spread = spread_of(scores)
  return [f"{np.mean(scores):.4f}", "" if spread is None else f"{spread:.4f}"]


def _times(turns: Sequence[Mapping[str, Any]], joined: Callable[[list[float]], Any]) -> list[str]:
  keys = ("processor_seconds", "seconds")
  return [f"{joined([turn[key] for turn in turns]):.2f}" for key in keys]


if __name__ == "__main__":
  cli.run_main(
    main,
    {"default": CompareConfig()},
    prog="compare_xares",
    default="default",
    description=(__doc__ or "").split("\n")[0],
  )
