"""One supervised run from its configuration to its report; the loop is that of pre-training.

set (audio, labels) -> batches -> [teacher's logits by id] -> step -> scores on the held-out part
                                                               -> export/, report.json, pictures
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from experiments.configs.supervised import SupervisedConfig
from experiments.supervised.introduction import dry_run, introduction
from experiments.supervised.prepare import Method, Prepared, check, prepare
from experiments.supervised.report import folds_table
from experiments.supervised.selected import averaged, report_selection
from experiments.training import config_io, entry
from experiments.training.cluster import join_cluster
from experiments.training.entry import say, say_unusable, write_record
from experiments.training.errors import UsageError
from experiments.training.loop import train
from experiments.training.memory import few_heaps
from experiments.training.mesh import check_batch, make_mesh, on_host
from experiments.training.metrics import block
from experiments.training.run import Interrupted, Outcome, Run
from experiments.training.selection import FOLDER
from experiments.training.startup import keep_programs
from experiments.training.state import TrainState
from experiments.training.unusable import Unusable
from experiments.training.workdir import Workdir
from pipelines import Dataset, batches, evaluation_batches
from pipelines.ledger import Ledger
from pipelines.sets import open_set

ALL = "all"  # in place of a fold
MAY_DIFFER = (
  *entry.MAY_DIFFER,
  "config.teacher",  # the fingerprint of what it holds is compared instead
  "config.teacher_ids",
  "config.augment.responses",  # as is that of the responses
)


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


def _train(
  cfg: SupervisedConfig, mesh: Mesh, place: Workdir, prog: str, method: Method | None
) -> int:
  ledger = Ledger(log=False)  # the loop names what is found, above its progress line
  ready = prepare(cfg, ledger, mesh.size, method)
  cfg, workdir = ready.cfg, place.folder
  say(introduction(ready, mesh))
  parts = {id(part): part for part in (ready.train, ready.held_out, ready.test)}
  skipped = tuple(row for part in parts.values() for row in part.skipped)
  say_unusable(skipped)
  loop = cfg.loop.in_steps(ready.epochs.steps, ready.epochs.clips)
  the_run = Run(
    task=ready.task,
    optimiser=ready.optimiser,
    mesh=mesh,
    cfg=loop,
    workdir=workdir,
    batches=functools.partial(training_batches, ready),
    validation=(
      functools.partial(_validation_batches, ready, mesh.size) if loop.validate_every else None
    ),
    record=config_io.to_dict(cfg),
    data=ready.fingerprint,
    # Validations move nothing, except where they choose states.
    may_differ=MAY_DIFFER if cfg.select.on else (*MAY_DIFFER, "config.loop.validate_every"),
    clip_seconds=cfg.data.crop_seconds,
    unusable=Unusable(workdir, ledger, skipped),
    still_there=place.check,
    young=config_io.to_dict(dataclasses.replace(type(cfg)(), model=cfg.model)),
    prog=prog,
    start=ready.start,
    score=functools.partial(ready.method.score, ready.labelled),
    select=cfg.select,
  )
  began = time.monotonic()
  try:
    outcome = train(the_run, functools.partial(_before, ready, workdir))
  except Interrupted as interrupted:
    say(f"{prog}: {interrupted}")
    return 128 + interrupted.signal_number
  _finish(ready, mesh, outcome, workdir, began)
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


def _validation_batches(ready: Prepared, devices: int, host: int, hosts: int) -> Any:
  size = devices if ready.cfg.whole else ready.cfg.loop.batch_size
  return evaluation_batches(ready.held_out, size, host_index=host, host_count=hosts)


def _before(ready: Prepared, workdir: Path, state: TrainState, new: bool) -> None:
  """Nothing is written before this: only here is it known that the folder holds no other run."""
  del state, new
  write_record(workdir / "config.json", config_io.to_dict(ready.cfg))


def _finish(ready: Prepared, mesh: Mesh, outcome: Outcome, workdir: Path, began: float) -> None:
  """Exports the network, scores it on the test part, draws, and sums up."""
  state = outcome.state
  params = state.params if state.ema is None else state.ema
  tree = on_host({"params": params, "model_state": state.model_state})
  if jax.process_index() == 0:
    # A run that ended early has fewer steps than it might have had.
    figures = entry.run_figures(outcome, int(jax.device_get(state.step)), began, workdir)
    figures = {"epochs": ready.cfg.loop.epochs, **figures}
    _report(ready, mesh, tree, outcome, figures, workdir)
  if jax.process_count() > 1:  # nobody leaves before the report is written
    multihost_utils.sync_global_devices("report")


def _report(
  ready: Prepared,
  mesh: Mesh,
  tree: dict[str, Any],
  outcome: Outcome,
  figures: dict[str, Any],
  workdir: Path,
) -> None:
  select, method = ready.cfg.select, ready.method
  chosen = None
  if select.average and outcome.best:  # without a finite figure the last state is all there is
    chosen = averaged(workdir / FOLDER, outcome.best, tree)
    tree = chosen.mean
  # A device has room for its share of a batch.
  size = 1 if ready.cfg.whole else max(1, ready.cfg.loop.batch_size // mesh.size)
  devices = list(mesh.local_devices)
  found = method.report(ready, _variables(tree), workdir, size, devices)
  summary, tables = {**figures, **found.summary}, [found.table]
  if chosen is not None:

    def figures_of(part: Dataset, tree: dict[str, Any]) -> Mapping[str, float]:
      return method.compare(ready, _variables(tree), part, size, devices) if method.compare else {}

    mean, best, test = chosen.mean, chosen.best, ready.test
    scores = {}
    if (part := ready.held_out) is not test:
      scores["validation"] = {"mean": figures_of(part, mean), "best": figures_of(part, best)}
    scores["test"] = {"mean": found.test, "best": figures_of(test, best)}  # the mean was reported
    more, table = report_selection(select, chosen, figures["steps"], scores, workdir)
    summary, tables = {**summary, **more}, [*tables, table]
  write_record(workdir / entry.SUMMARY, summary)
  say("\n" + block(summary))
  for table in tables:
    say("\n" + table)


def _variables(tree: dict[str, Any]) -> dict[str, Any]:
  return {"params": tree["params"], **tree["model_state"]}
