"""Fine-tuned, frozen, or from scratch: what published weights are worth on a set with folds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.studies.cell import Cell, accuracy_by_group, scores_of_run
from experiments.studies.config import StudyConfig
from experiments.studies.study import Study
from experiments.studies.weights import network_of
from experiments.training.errors import UsageError
from mobile_jax.config import DyMNConfig, MNConfig

TUNED, LINEAR, NEAREST, SCRATCH = (
  "fine-tuned",
  "frozen, linear probe",
  "frozen, k-NN",
  "from scratch",
)


def fine_tuning(cfg: StudyConfig) -> Study:
  """Every fold is left out once: by fine-tuning, by probes on the frozen network, from scratch."""
  out = Path(cfg.out)
  model, kind = network_of(cfg.init)
  if not isinstance(model, MNConfig | DyMNConfig) or not _is_plain(model):
    raise UsageError(
      f"--init {cfg.init}: this study also trains the same network from random weights, and knows "
      "plain MN and DyMN of any width alone"
    )
  if cfg.fold or cfg.seeds != StudyConfig().seeds:
    raise UsageError("--fold and --seeds: this study leaves out every fold in turn, with one seed")
  width = ("--model.width", f"{model.width:g}")
  folds = ("--data.source", cfg.data, "--data.cache", "memory", "--fold", "all")
  programs = ("--compile_cache", str(out / "programs"))

  def training(name: str, row: str, recipe: str, *flags: str) -> Cell:
    folder = out / name
    return Cell(
      name,
      "finetune",
      ("--config", recipe, *flags, *folds, *programs, "--workdir", str(folder), *cfg.more),
      folder / "report.json",
      row,
      scores_of_run(),
    )

  def probe(name: str, row: str, suite: str) -> Cell:
    result = out / f"{name}.json"
    flags = ("--suite", suite, "--checkpoint", cfg.init, "--tasks", cfg.data, "--out", str(result))
    return Cell(name, "evaluate", flags, result, row, accuracy_by_group)

  return Study(
    cells=(
      training("fine_tuned", TUNED, f"esc50_quick{kind}", "--init", cfg.init),
      probe("linear", LINEAR, "linear"),
      probe("knn", NEAREST, "knn"),
      training("scratch", SCRATCH, f"esc50_quick_scratch{kind}", *width),
    ),
    columns=("accuracy", "log_loss"),
    title="accuracy on the fold that was left out",
  )


def _is_plain(model: MNConfig | DyMNConfig) -> bool:
  """Whether the width alone tells it from its family's default."""
  plain: Any = type(model)(width=model.width)
  alike = {name: getattr(plain, name) for name in ("classes", "dropout", "compute", "objective")}
  if isinstance(model, DyMNConfig):
    alike["temperature"] = plain.temperature
  return dataclasses.replace(model, **alike) == plain
