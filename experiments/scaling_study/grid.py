"""The grid of a scaling study: every run is a command of `experiments.pretrain`.

Amounts of data are nested: what a smaller share of the training audio holds, a larger one holds too
(`pipelines.DataConfig.share`), and all runs leave out the same recordings. A length is a run of its
own with its own schedule: the loss in the middle of a longer run, whose learning rate has not come
down, is higher, and laws that are fitted to such losses mislead (Hoffmann et al. 2022, arXiv
2203.15556, section 3.1 and appendix B).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from pathlib import Path
from typing import NamedTuple

from experiments.configs.pretrain import EXPERIMENTS, NO_SOURCE, PretrainConfig
from experiments.configs.scaling import SIZES, ScalingConfig
from experiments.studies.cell import Cell
from experiments.training import cli, entry
from experiments.training.entry import SUMMARY
from experiments.training.errors import UsageError
from pipelines import DataConfig, open_dataset


@dataclasses.dataclass(frozen=True)
class Trial:
  """One run of the grid."""

  size: str
  share: float
  steps: int
  seed: int
  folder: Path
  config: PretrainConfig
  cell: Cell


def trials(cfg: ScalingConfig) -> tuple[Trial, ...]:
  """Every run, the least audio first; UsageError for a grid or flags that cannot be run."""
  check(cfg)
  points = itertools.product(cfg.seeds, cfg.steps, shares(cfg), cfg.sizes)
  return tuple(_trial(cfg, *point) for point in points)


def check(cfg: ScalingConfig) -> None:
  """UsageError for what needs no audio to be seen as wrong."""
  if cfg.recipe not in EXPERIMENTS:
    raise UsageError(f"--recipe {cfg.recipe}: choose one of {', '.join(EXPERIMENTS)}")
  for name in cfg.sizes:
    if name not in SIZES:
      raise UsageError(f"--sizes {name}: choose from {', '.join(SIZES)}")
  if cfg.source == NO_SOURCE:
    raise UsageError("--source: name folders of audio, manifests or shards (or synthetic:400)")
  if not cfg.out:
    raise UsageError("--out: name the folder of the study, e.g. --out runs/scaling")
  for flag in ("sizes", "shares", "hours", "steps", "seeds"):
    values = getattr(cfg, flag)
    if len(set(values)) != len(values) or not (values or flag == "hours"):
      raise UsageError(f"--{flag}: name one or more, each once")
  for flag, low, high in (
    ("holdout", 0.0, 1.0),
    ("confidence", 0.0, 1.0),
    ("mfu", 0.0, math.inf),
  ):
    if not low < getattr(cfg, flag) < high:
      raise UsageError(f"--{flag} {getattr(cfg, flag):g}: it must lie between {low:g} and {high:g}")
  if not 0 <= cfg.warmup <= 1:
    raise UsageError(f"--warmup {cfg.warmup:g}: it is a share of the steps, from 0 to 1")
  if cfg.k < 1 or cfg.resamples < 0:
    raise UsageError("--k must be at least 1, and --resamples 0 or more")


def shares(cfg: ScalingConfig) -> tuple[float, ...]:
  """The amounts of data as shares of the audio of training, smallest first."""
  if not cfg.hours:
    return tuple(sorted(cfg.shares))
  whole = hours_of_training(_whole(cfg))
  wrong = [hours for hours in cfg.hours if not 0 < hours <= whole]
  if wrong:
    raise UsageError(f"--hours {wrong[0]:g}: there are {whole:.4g} hours of training audio")
  return tuple(float(f"{hours / whole:.6g}") for hours in sorted(cfg.hours))


def _whole(cfg: ScalingConfig) -> PretrainConfig:
  return _trial(cfg, cfg.seeds[0], cfg.steps[0], 1.0, cfg.sizes[0]).config


def hours_of_training(run: PretrainConfig) -> float:
  """Hours of the recordings that a run trains on."""
  return _training(run.data, run.loop.seed).hours


def fingerprint_of_training(run: PretrainConfig) -> str:
  """Of the recordings that a run trains on, as its checkpoints have it."""
  return _training(run.data, run.loop.seed).fingerprint


class _Training(NamedTuple):
  hours: float
  fingerprint: str


@functools.lru_cache(maxsize=256)
def _training(data: DataConfig, seed: int) -> _Training:
  found = open_dataset(data, "train", seed)
  return _Training(found.hours, entry.fingerprint(found))


def _trial(cfg: ScalingConfig, seed: int, steps: int, share: float, name: str) -> Trial:
  size = SIZES[name]
  label = f"{name}_share{share:g}_steps{steps}_seed{seed}"
  out = Path(cfg.out)
  flags: dict[str, object] = {}
  for half in ("encoder", "decoder"):
    stack = getattr(size, half)
    for field in ("width", "depth", "heads", "mlp_ratio"):
      flags[f"model.{half}.{field}"] = getattr(stack, field)
  if size.remat:
    flags["model.compute.remat"] = size.remat
  if size.peak_lr:
    flags["optim.peak_lr"] = size.peak_lr
  flags["optim.warmup_steps"] = round(cfg.warmup * steps)
  flags |= {"loop.steps": steps, "loop.seed": seed}
  flags |= {"data.holdout": cfg.holdout, "data.share": share, "data.share_seed": seed}
  words = [word for flag, value in flags.items() for word in (f"--{flag}", _text(value))]
  words += ["--data.source", *cfg.source]
  if cfg.weights:
    words += ["--data.weights", *(_text(w) for w in cfg.weights)]
  if cfg.launch == "here":  # a cluster's programs belong to the devices of each run
    words += ["--compile_cache", str(out / "programs")]
  words += ["--workdir", str(out / label)]
  command = ("--config", cfg.recipe, *words, *cfg.more)
  config = cli.parse(command, EXPERIMENTS, prog="pretrain")
  cell = Cell(label, "pretrain", command, out / label / SUMMARY)
  return Trial(name, share, steps, seed, out / label, config, cell)


def _text(value: object) -> str:
  return f"{value:.10g}" if isinstance(value, float) else str(value)
