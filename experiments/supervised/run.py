"""One supervised run from its configuration to its report; the loop is that of pre-training.

set (audio, labels) -> batches -> [teacher's logits by id] -> step -> scores on the held-out part
                                                               -> export/, report.json, pictures
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dasheng_jax.errors import ConfigError
from experiments.configs.supervised import NO_SOURCE, SupervisedConfig
from experiments.evaluation.part_scores import score_of
from experiments.supervised.devices import add_devices, add_main_device
from experiments.supervised.network import Start, check_rate, network_of
from experiments.supervised.recipe import DistilConfig
from experiments.supervised.report import Report, folds_table, report_run
from experiments.supervised.task import Recipe, supervised_task
from experiments.training import config_io, entry
from experiments.training.cluster import join_cluster
from experiments.training.entry import say, say_unusable, write_record
from experiments.training.epochs import Epochs
from experiments.training.errors import UsageError
from experiments.training.loop import train
from experiments.training.memory import few_heaps
from experiments.training.mesh import batch_sharding, check_batch, imagined_mesh, make_mesh
from experiments.training.metrics import block
from experiments.training.optim import Optimiser, layer_shares, make_optimiser
from experiments.training.run import Interrupted, Outcome, Run
from experiments.training.startup import keep_programs
from experiments.training.state import TrainState, abstract_state, state_placements
from experiments.training.step import train_step
from experiments.training.task import Task
from experiments.training.unusable import Unusable
from experiments.training.workdir import Workdir
from mobile_jax.families import Config, size_of
from pipelines import Dataset, batches, evaluation_batches
from pipelines.impulse_response import Responses, read_responses
from pipelines.ledger import Ledger
from pipelines.sets import TrainingSet, open_set
from pipelines.teacher import Teacher, open_teacher

ALL = "all"  # in place of a fold
MAY_DIFFER = (
  *entry.MAY_DIFFER,
  "config.teacher",  # the fingerprint of what it holds is compared instead
  "config.teacher_ids",
  "config.augment.responses",  # as is that of the responses
  "config.loop.validate_every",
)


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A run with its set opened and everything derived from it.

  Attributes:
    cfg: as given, but `model` is the network that is trained.
    labelled: the set.
    train, held_out, test: its parts; the second is the validation part, or else the test part.
    task, optimiser, epochs: what the loop drives.
    start: reads the weights that a new run begins with.
    teacher: what is distilled from.
    responses: of microphones that training clips are heard through.
  """

  cfg: SupervisedConfig
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


@dataclasses.dataclass(frozen=True)
class Method:
  """What a run trains where that is not the network itself but something made of it.

  Attributes:
    task: (network, recipe) -> the task.
    start: (network, what reads its weights) -> what reads those that the task begins with.
    score: (set, outputs, labels) -> figures of a validation.
    report: (run, variables, folder, batch size, devices) -> figures, after writing the rest.
  """

  task: Callable[[Config, Recipe], Task]
  start: Callable[[Config, Start], Start]
  score: Callable[[TrainingSet, np.ndarray, dict[str, np.ndarray]], dict[str, float]]
  report: Callable[[Prepared, dict[str, Any], Path, int, list[jax.Device]], Report]


def run(cfg: SupervisedConfig, prog: str = "finetune", method: Method | None = None) -> int:
  """Runs one configuration, or with `fold` "all" one for each fold of the set; the exit code.

  method: None trains the network itself.
  """
  if cfg.fold == ALL:
    return _run_folds(cfg, prog, method)
  few_heaps()
  if not cfg.dry_run:
    join_cluster(cfg.loop.peer_seconds)
  check(cfg)
  if cfg.dry_run:
    ready = prepare(cfg, Ledger(log=False), len(jax.devices()), method)
    print(dry_run(ready))
    return 0
  keep_programs(cfg.compile_cache)
  mesh = make_mesh(cfg.mesh)
  check_batch(cfg.loop.batch_size, mesh, cfg.optim.accumulate)
  with Workdir(Path(cfg.workdir), active=jax.process_index() == 0) as place:
    return _train(cfg, mesh, place, prog, method)


def _run_folds(cfg: SupervisedConfig, prog: str, method: Method | None) -> int:
  """Each fold in a folder of its own below the run's; finished ones are only scored again."""
  check(cfg)
  folds = open_set(cfg.data.source[0], cfg.data).folds
  if not folds:
    raise UsageError(f"--fold {ALL}: {cfg.data.source[0]} has no folds")
  if cfg.dry_run:
    return run(dataclasses.replace(cfg, fold=folds[0]), prog, method)
  folders = {fold: Path(cfg.workdir) / f"fold_{fold}" for fold in folds}
  for fold, folder in folders.items():
    # One that is finished trains no more, but is checked to be of this configuration.
    code = run(dataclasses.replace(cfg, fold=fold, workdir=str(folder)), prog, method)
    if code:
      return code
  if jax.process_index() != 0:
    return 0
  reports = {
    fold: json.loads((folder / "report.json").read_text(encoding="utf-8"))
    for fold, folder in folders.items()
  }
  table = folds_table(reports)
  (Path(cfg.workdir) / "report.md").write_text(table + "\n", encoding="utf-8")
  write_record(Path(cfg.workdir) / "report.json", {"folds": reports})
  say("\n" + table)
  return 0


def check(cfg: SupervisedConfig) -> None:
  """UsageError for settings that no run could have, before anything is read."""
  if cfg.data.source == NO_SOURCE or len(cfg.data.source) != 1:
    raise UsageError("--data.source: name one labelled set, such as esc50=FOLDER or folder=FOLDER")
  if not cfg.dry_run and not cfg.workdir:
    raise UsageError("--workdir: name the folder of the run, e.g. --workdir runs/first")
  if cfg.data.weights:
    raise UsageError("--data.weights: a labelled set has one source; use --data.order importance")
  if cfg.norm_momentum is not None and not 0 < cfg.norm_momentum <= 1:
    raise UsageError(f"--norm_momentum {cfg.norm_momentum:g}: it must be more than 0, at most 1")
  if cfg.teacher and cfg.distil.label_weight and cfg.augment.wave_mixup:
    raise UsageError(
      "--teacher: stored logits are of waves that were not mixed; set --augment.wave_mixup 0"
    )


def prepare(
  cfg: SupervisedConfig, ledger: Ledger, devices: int, method: Method | None = None
) -> Prepared:
  """Opens the set, the teacher and the weights, and derives the rest."""
  labelled = open_set(cfg.data.source[0], cfg.data, cfg.fold)
  # The set has split itself: what `holdout` decided there is not to be decided again.
  data = dataclasses.replace(cfg.data, holdout=0.0)
  calm = dataclasses.replace(data, order="global")

  def part(name: str) -> Dataset:
    # Each part has a ledger of its own, by which its share of unusable recordings is judged.
    how = data if name == "train" else calm
    return Dataset(how, labelled.part(name), "all", Ledger(log=False, into=ledger))

  trainset, test = part("train"), part("test")
  held_out = part("validation") if "validation" in labelled.parts else test
  add_main_device(trainset, labelled)
  for scored in (held_out, test):
    add_devices(scored, labelled)
  if labelled.objective == "tags" and cfg.distil.mean_over != DistilConfig.mean_over:
    raise UsageError("--distil.mean_over: is of clips with one class; this set has tags")
  classes = len(labelled.classes)
  model, start = network_of(cfg, classes, labelled.objective, devices)
  check_rate(cfg.data, model)
  if cfg.data.crop_samples < model.mel.min_samples:
    raise UsageError(
      f"--data.crop_seconds {cfg.data.crop_seconds:g}: the front end needs at least "
      f"{model.mel.min_samples / model.mel.sample_rate:.3f} s"
    )
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
  )
  return Prepared(
    cfg=cfg,
    labelled=labelled,
    train=trainset,
    held_out=held_out,
    test=test,
    task=method.task(model, recipe) if method else supervised_task(model, recipe),
    optimiser=_optimiser(cfg, model, epochs),
    epochs=epochs,
    start=method.start(model, start) if method and start else start,
    teacher=teacher,
    responses=recipe.responses,
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


def _train(
  cfg: SupervisedConfig, mesh: Mesh, place: Workdir, prog: str, method: Method | None
) -> int:
  ledger = Ledger(log=False)  # the loop names what is found, above its progress line
  ready = prepare(cfg, ledger, mesh.size, method)
  cfg, workdir = ready.cfg, place.folder
  say(_introduction(ready, mesh))
  parts = {id(part): part for part in (ready.train, ready.held_out, ready.test)}
  skipped = tuple(row for part in parts.values() for row in part.skipped)
  say_unusable(skipped)
  loop = cfg.loop.in_steps(ready.epochs.steps, ready.epochs.clips)

  def score(outputs: np.ndarray, given: Mapping[str, np.ndarray]) -> dict[str, float]:
    if method:
      return method.score(ready.labelled, outputs, dict(given))
    return score_of(ready.labelled, outputs, given).means

  the_run = Run(
    task=ready.task,
    optimiser=ready.optimiser,
    mesh=mesh,
    cfg=loop,
    workdir=workdir,
    batches=functools.partial(training_batches, ready),
    validation=functools.partial(_validation_batches, ready) if loop.validate_every else None,
    record=config_io.to_dict(cfg),
    data=ready.fingerprint,
    may_differ=MAY_DIFFER,
    clip_seconds=cfg.data.crop_seconds,
    unusable=Unusable(workdir, ledger, skipped),
    still_there=place.check,
    young=config_io.to_dict(dataclasses.replace(type(cfg)(), model=cfg.model)),
    prog=prog,
    start=ready.start,
    score=score,
  )
  began = time.monotonic()
  try:
    outcome = train(the_run, functools.partial(_before, ready, workdir))
  except Interrupted as interrupted:
    say(f"{prog}: {interrupted}")
    return 128 + interrupted.signal_number
  _finish(ready, mesh, outcome, workdir, began, method)
  return 0


def training_batches(ready: Prepared, start: int, steps: int, host: int, hosts: int) -> Any:
  """Batches of the training part from a step on, this host's rows of them."""
  loop = ready.cfg.loop
  return batches(
    ready.train,
    batch_size=loop.batch_size,
    seed=loop.seed,
    start_step=start,
    steps=steps,
    host_index=host,
    host_count=hosts,
  )


def _validation_batches(ready: Prepared, host: int, hosts: int) -> Any:
  size = ready.cfg.loop.batch_size
  return evaluation_batches(ready.held_out, size, host_index=host, host_count=hosts)


def _before(ready: Prepared, workdir: Path, state: TrainState, new: bool) -> None:
  """Nothing is written before this: only here is it known that the folder holds no other run."""
  del state, new
  write_record(workdir / "config.json", config_io.to_dict(ready.cfg))


def _finish(
  ready: Prepared,
  mesh: Mesh,
  outcome: Outcome,
  workdir: Path,
  began: float,
  method: Method | None,
) -> None:
  """Exports the network, scores it on the test part, draws, and sums up."""
  params = outcome.state.params if outcome.state.ema is None else outcome.state.ema
  variables = entry.on_host({"params": params, **outcome.state.model_state})
  if jax.process_index() == 0:
    figures = entry.run_figures(outcome, ready.epochs.steps, began, workdir)
    figures = {"epochs": ready.cfg.loop.epochs, **figures}
    _report(ready, mesh, variables, figures, workdir, method)
  if jax.process_count() > 1:  # nobody leaves before the report is written
    multihost_utils.sync_global_devices("report")


def _report(
  ready: Prepared,
  mesh: Mesh,
  variables: dict[str, Any],
  figures: dict[str, Any],
  workdir: Path,
  method: Method | None,
) -> None:
  # A device has room for its share of a batch.
  size = max(1, ready.cfg.loop.batch_size // mesh.size)
  devices = list(mesh.local_devices)
  if method:
    found = method.report(ready, variables, workdir, size, devices)
  else:
    found = report_run(ready.cfg, ready.labelled, variables, ready.test, workdir, size, devices)
  summary = {**figures, **found.summary}
  write_record(workdir / entry.SUMMARY, summary)
  say("\n" + block(summary))
  say("\n" + found.table)


def _introduction(ready: Prepared, mesh: Mesh) -> str:
  cfg = ready.cfg
  state = abstract_state(ready.task, ready.optimiser)
  count = sum(x.size for x in jax.tree.leaves(state.params))
  table = state_placements(ready.task, state, mesh)
  megabytes = sum(p.bytes_per_device for p in jax.tree.leaves(table)) / 1e6
  lines = [
    f"model     {size_of(cfg.model)}, {count:,} parameters, "
    f"{len(ready.labelled.classes)} classes, from {cfg.init or 'random weights'}",
    entry.devices_line(mesh, megabytes),
    f"training  {ready.train.describe()}",
    f"held out  {ready.held_out.describe()}",
  ]
  if ready.teacher is not None:
    lines.append(f"teacher   {ready.teacher.describe}")
  lines.append(
    f"run       {cfg.loop.epochs} epochs, {ready.epochs.steps:,} steps of {cfg.loop.batch_size} "
    f"clips, folder {cfg.workdir}"
  )
  return "\n".join(lines)


def dry_run(ready: Prepared) -> str:
  """What would be trained, after tracing the whole step; allocates nothing."""
  cfg = ready.cfg
  mesh = imagined_mesh(cfg.mesh, len(jax.devices()))
  check_batch(cfg.loop.batch_size, mesh, cfg.optim.accumulate)
  state = abstract_state(ready.task, ready.optimiser)
  rows = np.full(cfg.loop.batch_size, -1)
  given = {name: values_of(rows) for name, values_of in ready.train.fields.items()}
  batch: dict[str, Any] = {
    "wave": jax.ShapeDtypeStruct((cfg.loop.batch_size, cfg.data.crop_samples), np.float32)
  }
  batch |= {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in given.items()}
  with jax.sharding.use_abstract_mesh(mesh):
    step = functools.partial(
      train_step, task=ready.task, optimiser=ready.optimiser, seed=cfg.loop.seed
    )
    try:
      _, metrics = jax.eval_shape(step, state, batch)
    except ConfigError as error:
      raise UsageError(str(error)) from None
  count = sum(x.size for x in jax.tree.leaves(state.params))
  lines = [
    f"{size_of(cfg.model)}: {count:,} parameters",
    f"training  {ready.train.describe()}",
    f"held out  {ready.held_out.describe()}",
    f"{cfg.loop.epochs} epochs are {ready.epochs.steps:,} steps of {cfg.loop.batch_size} clips, "
    f"{batch_sharding(mesh).spec}",
    f"the step traces and returns {', '.join(sorted(metrics))}",
  ]
  if cfg.optim.layer_rates:
    shares = jax.tree.leaves(layer_shares(cfg.optim, state.params))
    sizes = [x.size for x in jax.tree.leaves(state.params)]
    frozen = sum(n for n, share in zip(sizes, shares, strict=True) if not share)
    lines.append(f"{frozen:,} parameters are frozen by --optim.layer_rates")
  return "\n".join(lines)
