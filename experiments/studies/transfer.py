"""What pre-training is worth on other tasks: random weights, a frozen network, a fine-tuned one.

A cell is a task, a mode and a seed; sets with folds leave out each of them in the cell. A row is a
task and a mode, its figure the mean over seeds and folds, beside what the paper reports of its two
networks. The figure is the task's metric in percent: of VoxLingua107 the error rate, else more is
better.

Source: reference text of the weakly supervised taggers, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.configs.transfer import EXPERIMENTS, MODES, MORE, NETWORKS, TASKS, Mode
from experiments.studies.cell import Cell, Points, scores_of_run
from experiments.studies.config import StudyConfig
from experiments.studies.study import Study
from experiments.training.entry import say
from experiments.training.errors import UsageError

EVERY = {**TASKS, **MORE}
SCORE = "score"


def transfer(cfg: StudyConfig) -> Study:
  """The tasks of the sets that are named, in every mode, for every seed."""
  sets = _sets(cfg)
  if not cfg.modes or len(set(cfg.modes)) != len(cfg.modes):
    raise UsageError(f"--modes: name one or more of {', '.join(MODES)}, each once")
  if cfg.fold:
    raise UsageError("--fold: this study leaves out every fold in turn; leave it out")
  if not cfg.init and (cfg.modes != ("scratch",) or not cfg.student):
    raise UsageError(
      "--init is missing: frozen and fine-tuned networks begin with weights; from scratch alone, "
      "--modes scratch --student NAME"
    )
  for task in sets:
    if len(cfg.seeds) > EVERY[task].trials:
      left = ", ".join(map(str, cfg.seeds[EVERY[task].trials :]))
      say(f"transfer: {task} has {EVERY[task].trials} trials as published; without seeds {left}")
  cells = tuple(
    _cell(cfg, task, source, mode, seed)
    for task, source in sets.items()
    for mode in cfg.modes
    for seed in cfg.seeds[: EVERY[task].trials]
  )
  return Study(
    cells=cells,
    columns=(SCORE,),
    title="the metric of each task, every seed and fold a point",
    name="transfer",
    beside=_published(cfg, list(sets)),
  )


def _sets(cfg: StudyConfig) -> dict[str, str]:
  """{task: NAME=FOLDER}; UsageError for a set that no task is of."""
  found: dict[str, str] = {}
  for source in (cfg.data, *cfg.sets):
    name = source.partition("=")[0]
    if not source:
      continue
    if name not in EVERY:
      raise UsageError(f"--sets {source}: no task is of this set; choose from {', '.join(EVERY)}")
    if name in found:
      raise UsageError(f"--sets {source}: {name} is named twice")
    found[name] = source
  return found


def _cell(cfg: StudyConfig, task: str, source: str, mode: Mode, seed: int) -> Cell:
  name = f"{task}_{mode}_{seed}"
  folder = Path(cfg.out) / name
  return Cell(
    name,
    "transfer",
    (
      *("--config", task, "--mode", mode),
      *(("--init", cfg.init) if cfg.init else ()),
      *(("--student", cfg.student) if cfg.student and mode == "scratch" else ()),
      *("--data.source", source),
      *(("--fold", "all") if EVERY[task].folds else ()),
      *("--compile_cache", str(Path(cfg.out) / "programs")),
      *("--loop.seed", str(seed), "--workdir", str(folder)),
      *cfg.more,
    ),
    folder / "report.json",
    row_of(task, mode),
    _score(EXPERIMENTS[task].select.metric, seed),
  )


def row_of(task: str, mode: Mode) -> str:
  """The name of a row of the table."""
  return f"{task}, {EVERY[task].metric.replace('_', ' ')}, {mode}"


def _score(metric: str, seed: int) -> Callable[[Any], Points]:
  """The metric of a task, a point for each seed or each fold of a seed."""

  def points(content: Mapping[str, Any]) -> Points:
    read = scores_of_run(seed)(content)
    folds = "folds" in content
    return {
      (f"seed {seed} {point}" if folds else point): {SCORE: figures[metric]}
      for point, figures in read.items()
    }

  return points


def _published(cfg: StudyConfig, tasks: list[str]) -> dict[str, dict[str, str]]:
  """{"published, NETWORK": {row: percent}} of the paper's tasks."""
  return {
    f"published, {network}": {
      row_of(task, mode): f"{getattr(published, network)[MODES.index(mode)]:.2f}"
      for task in tasks
      for mode in cfg.modes
      if (published := EVERY[task].published) is not None
    }
    for network in NETWORKS
  }
