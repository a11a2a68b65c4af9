"""A supervised run before its first step: the set, the network, the teacher, what is trained.

set (audio, labels) -> parts -> [teacher's logits by id] -> network, task, optimiser -> Prepared
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.configs.supervised import NO_SOURCE, SupervisedConfig
from experiments.evaluation.part_scores import score_of
from experiments.supervised.devices import add_devices, add_main_device
from experiments.supervised.network import Start, check_rate, network_of
from experiments.supervised.recipe import DistilConfig
from experiments.supervised.report import Report, report_run, score_network
from experiments.supervised.task import Recipe, supervised_task
from experiments.training import entry
from experiments.training.entry import say
from experiments.training.epochs import Epochs
from experiments.training.errors import UsageError
from experiments.training.optim import Optimiser, make_optimiser
from experiments.training.task import Task
from mobile_jax.families import Config
from mobile_jax.inference import least_samples
from pipelines import Dataset
from pipelines.impulse_response import Responses, read_responses
from pipelines.ledger import Ledger
from pipelines.mel import MelConfig
from pipelines.sets import TrainingSet, open_set
from pipelines.teacher import Teacher, open_teacher


@dataclasses.dataclass(frozen=True)
class Method:
  """What a run trains: the network itself, or something made of it.

  Attributes:
    task: (network, recipe) -> the task.
    start: (network, what reads its weights) -> what reads those that the task begins with.
    score: (set, outputs, labels) -> figures of a validation.
    report: (run, variables, folder, batch size, devices) -> figures, after writing the rest.
    compare: (run, variables, part, batch size, devices) -> figures alone, by which networks of one
      run are compared; None where there is no such comparison.
    forms: how many forms of a network are scored at once: outputs of a clip are [forms, classes];
      0 where they are [classes].
  """

  task: Callable[[Config, Recipe], Task]
  start: Callable[[Config, Start], Start]
  score: Callable[[TrainingSet, np.ndarray, Mapping[str, np.ndarray]], dict[str, float]]
  report: Callable[[Prepared, dict[str, Any], Path, int, list[jax.Device]], Report]
  compare: (
    Callable[[Prepared, dict[str, Any], Dataset, int, list[jax.Device]], dict[str, float]] | None
  ) = None
  forms: int = 0


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A run with its set opened and everything derived from it.

  Attributes:
    cfg: as given, but `model` is the network that is trained.
    method: what is trained of it.
    labelled: the set.
    train, held_out, test: its parts; the second is the validation part, or else the test part.
    task, optimiser, epochs: what the loop drives.
    start: reads the weights that a new run begins with.
    teacher: what is distilled from.
    responses: of microphones that training clips are heard through.
  """

  cfg: SupervisedConfig
  method: Method
  labelled: TrainingSet
  train: Dataset
  held_out: Dataset
  test: Dataset
  task: Task
  optimiser: Optimiser
  epochs: Epochs
  start: Start | None
  teacher: Teacher | None
  responses: Responses | None

  @property
  def fingerprint(self) -> str:
    """What training batches depend on besides the configuration."""
    heard = f", responses {self.responses.digest}" if self.responses is not None else ""
    return entry.fingerprint(self.train, labels=True) + heard


def _report_network(
  ready: Prepared,
  variables: dict[str, Any],
  workdir: Path,
  batch_size: int,
  devices: list[jax.Device],
) -> Report:
  return report_run(ready.cfg, ready.labelled, variables, ready.test, workdir, batch_size, devices)


def _compare_networks(
  ready: Prepared,
  variables: dict[str, Any],
  part: Dataset,
  batch_size: int,
  devices: list[jax.Device],
) -> dict[str, float]:
  labelled, model = ready.labelled, ready.cfg.model
  return score_network(model, variables, part, labelled, batch_size, devices).means


NETWORK = Method(
  task=lambda model, recipe: supervised_task(model, recipe),
  start=lambda model, start: start,
  score=lambda labelled, outputs, given: score_of(labelled, outputs, given).means,
  report=_report_network,
  compare=_compare_networks,
)


def check(cfg: SupervisedConfig) -> None:
  """UsageError for settings that no run could have, before anything is read."""
  if cfg.data.source == NO_SOURCE or len(cfg.data.source) != 1:
    raise UsageError("--data.source: name one labelled set, such as esc50=FOLDER or folder=FOLDER")
  if not cfg.dry_run and not cfg.workdir:
    raise UsageError("--workdir: name the folder of the run, e.g. --workdir runs/first")
  if cfg.frozen and not cfg.init:
    raise UsageError("--frozen: name the weights that stay, with --init")
  if cfg.frozen and cfg.optim.weight_decay:
    raise UsageError("--frozen: set --optim.weight_decay 0, which would shrink what is to stay")
  if cfg.data.crop == "whole":
    raise UsageError("--data.crop whole: is for evaluation; set --whole, and another crop")
  if cfg.data.weights:
    raise UsageError(
      "--data.weights: a labelled set has one source; use --data.order importance or balanced"
    )
  if (cfg.augment.freq_mask or cfg.augment.time_mask) and not isinstance(cfg.model.mel, MelConfig):
    raise UsageError(
      "--augment.freq_mask, --augment.time_mask: are of front ends in decibels; this network has "
      "--model.mel.freq_mask and --model.mel.time_mask"
    )
  if cfg.select.on and not cfg.loop.validate_every:
    raise UsageError("--select: goes by validations; set --loop.validate_every, in epochs")
  if cfg.norm_momentum is not None and not 0 < cfg.norm_momentum <= 1:
    raise UsageError(f"--norm_momentum {cfg.norm_momentum:g}: it must be more than 0, at most 1")
  if cfg.teacher and cfg.distil.label_weight and cfg.augment.pairs != "off":
    raise UsageError(
      "--teacher: stored logits are of single clips; set --augment.pairs off and mix with "
      "--augment.mixup"
    )
  if cfg.teacher and cfg.distil.label_weight and cfg.augment.wave_mixup:
    raise UsageError(
      "--teacher: stored logits are of waves that were not mixed; set --augment.wave_mixup 0"
    )


def prepare(
  cfg: SupervisedConfig, ledger: Ledger, devices: int, method: Method | None = None
) -> Prepared:
  """Opens the set, the teacher and the weights, and derives the rest.

  method: None trains the network itself.
  """
  method = NETWORK if method is None else method
  if cfg.frozen and method is not NETWORK:
    raise UsageError("--frozen: this program trains no classifier alone; leave it out")
  if cfg.data.share < 1:
    raise UsageError(f"--data.share {cfg.data.share:g}: labelled sets are used whole")
  labelled = open_set(cfg.data.source[0], cfg.data, cfg.fold)
  # The set has split itself: what `holdout` decided there is not to be decided again.
  data = dataclasses.replace(cfg.data, holdout=0.0)
  crop = "whole" if cfg.whole else data.crop
  calm = dataclasses.replace(data, order="global", crop=crop)

  def part(name: str) -> Dataset:
    # Each part has a ledger of its own, by which its share of unusable recordings is judged.
    how = data if name == "train" else calm
    return Dataset(how, labelled.part(name), "all", Ledger(log=False, into=ledger))

  trainset, test = part("train"), part("test")
  held_out = part("validation") if "validation" in labelled.parts else test
  add_main_device(trainset, labelled)
  for scored in (held_out, test):
    add_devices(scored, labelled)
  if cfg.select.on:
    check_metric(cfg.select.metric, method, labelled, held_out)
  if labelled.objective == "tags" and cfg.distil.mean_over != DistilConfig.mean_over:
    raise UsageError("--distil.mean_over: is of clips with one class; this set has tags")
  classes = len(labelled.classes)
  model, start = network_of(cfg, classes, labelled.objective, devices)
  check_rate(cfg.data, model)
  least = least_samples(model)
  if cfg.data.crop_samples < least:
    raise UsageError(
      f"--data.crop_seconds {cfg.data.crop_seconds:g}: the network needs at least "
      f"{least / model.mel.sample_rate:.3f} s"
    )
  for scored in (held_out, test):
    scored.least_samples = least  # whole recordings may be shorter
  cfg = dataclasses.replace(cfg, model=model, fold=labelled.fold)
  teacher = _teacher(cfg, trainset, labelled)
  clips = trainset.order(cfg.loop.seed).clips_per_epoch
  epochs = Epochs(cfg.loop.epochs, clips, cfg.loop.batch_size)
  recipe = Recipe(
    labelled.objective,
    cfg.augment,
    cfg.distil if teacher else None,
    cfg.temperature,
    epochs,
    cfg.norm_momentum,
    _responses(cfg, model, trainset),
    cfg.frozen,
  )
  return Prepared(
    cfg=cfg,
    method=method,
    labelled=labelled,
    train=trainset,
    held_out=held_out,
    test=test,
    task=method.task(model, recipe),
    optimiser=_optimiser(cfg, model, epochs),
    epochs=epochs,
    start=method.start(model, start) if start else None,
    teacher=teacher,
    responses=recipe.responses,
  )


def check_metric(metric: str, method: Method, labelled: TrainingSet, held_out: Dataset) -> None:
  """UsageError where validations will have no such figure."""
  # Two clips have all figures, but that groups of devices have theirs where they recorded any.
  count = len(held_out) if labelled.devices is not None else min(2, len(held_out))
  given = {name: of(np.arange(count)) for name, of in held_out.fields.items()}
  forms = (method.forms,) if method.forms else ()
  outputs = np.zeros((count, *forms, len(labelled.classes)), np.float32)
  figures = ["loss", *method.score(labelled, outputs, given)]
  if metric not in figures:
    raise UsageError(
      f"--select.metric {metric}: validations of {labelled.name} have {', '.join(figures)}; choose "
      "one of these"
    )


def _optimiser(cfg: SupervisedConfig, model: Config, epochs: Epochs) -> Optimiser:
  """The configured optimiser, its rate multiplied by the factor of each epoch."""
  base = make_optimiser(cfg.optim, epochs.steps, model.compute.kernels)
  factor = epochs.table(cfg.schedule)
  return dataclasses.replace(base, rate=lambda step: base.rate(step) * factor(step))


def _responses(cfg: SupervisedConfig, model: Config, trainset: Dataset) -> Responses | None:
  """The microphones that clips may be heard through."""
  told = cfg.augment
  if not told.response_p:
    return None
  if not told.responses:
    raise UsageError(
      "--augment.responses: name the folder of microphones' impulse responses, or switch them off "
      "with --augment.response_p 0"
    )
  if told.response_of == "main_device" and "main_device" not in trainset.fields:
    raise UsageError(
      "--augment.response_of main_device: this set does not say which device recorded a clip; "
      "use all_devices"
    )
  waves = read_responses(told.responses, model.mel.sample_rate)
  return Responses(waves, told.response_p, told.response_of)


def _teacher(cfg: SupervisedConfig, trainset: Dataset, labelled: TrainingSet) -> Teacher | None:
  """Opens the teacher and lets batches carry its logits."""
  if not cfg.teacher:
    return None
  teacher = open_teacher(cfg.teacher, cfg.teacher_ids)
  if teacher.classes != len(labelled.classes):
    raise UsageError(
      f"--teacher {cfg.teacher}: logits of {teacher.classes} classes, but {labelled.name} has "
      f"{len(labelled.classes)}"
    )
  if teacher.names and teacher.names != labelled.classes:
    raise UsageError(f"--teacher {cfg.teacher}: its classes are not those of {labelled.name}")
  rows = np.concatenate(
    [
      teacher.rows_of(str(source.ids[int(i)]) for i in trainset.recordings_of(number))
      for number, source in enumerate(trainset.sources)
    ]
  )
  if len(rows) != len(trainset):
    raise UsageError("--data.crop: stored logits are of whole recordings; use --data.crop single")
  if not np.any(rows >= 0):
    raise UsageError(f"--teacher {cfg.teacher}: it knows none of the {len(rows):,} recordings")

  def row_of(examples: np.ndarray) -> np.ndarray:
    return np.where(examples >= 0, rows[examples], -1)

  trainset.fields["teacher"] = lambda examples: teacher.logits(row_of(examples))
  trainset.fields["known"] = lambda examples: row_of(examples) >= 0
  if unknown := int(np.sum(rows < 0)):
    say(f"teacher   {unknown:,} of {len(rows):,} recordings are unknown to it")
  return teacher
