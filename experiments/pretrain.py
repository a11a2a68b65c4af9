r"""Pre-trains Dasheng, the masked autoencoder, on any audio.

    python -m experiments.pretrain --config hour --data.source FOLDER --workdir runs/hour

A run that is found in the folder goes on from its newest checkpoint. At the end the folder holds
the encoder in the official layout (export/encoder.pt and .safetensors), the metrics, a loss curve
and a reconstruction as pictures, and the k-NN accuracy before and after where tasks were named.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dasheng_jax.errors import ConfigError
from dasheng_jax.mae import check_crop
from dasheng_jax.weights.files import official_config, write_encoder_file
from experiments.configs.pretrain import EXPERIMENTS, NO_SOURCE, PretrainConfig
from experiments.evaluation.before_after import CALIBRATED, INITIAL, TRAINED, BeforeAfter
from experiments.training import cli, config_io, entry
from experiments.training.cluster import join_cluster
from experiments.training.dasheng_task import dasheng_task, encoder_of, for_evaluation
from experiments.training.entry import (
  devices_line,
  fingerprint,
  run_figures,
  say,
  say_unusable,
  write_record,
)
from experiments.training.errors import UsageError
from experiments.training.loop import train
from experiments.training.memory import few_heaps
from experiments.training.mesh import (
  batch_sharding,
  check_batch,
  format_table,
  imagined_mesh,
  make_mesh,
  on_host,
)
from experiments.training.metrics import block
from experiments.training.optim import Optimiser, make_optimiser
from experiments.training.run import Interrupted, Outcome, Run
from experiments.training.run_pictures import draw_pictures
from experiments.training.startup import keep_programs
from experiments.training.state import TrainState, abstract_state, init_state, state_placements
from experiments.training.step import train_step
from experiments.training.task import Task
from experiments.training.unusable import Unusable
from experiments.training.workdir import Workdir
from pipelines import Dataset, batches, evaluation_batches, open_dataset
from pipelines.ledger import Ledger
from pipelines.sources import Source

MAY_DIFFER = (*entry.MAY_DIFFER, "config.knn")


def main(cfg: PretrainConfig, sources: Sequence[Source] = ()) -> int:
  """Runs one configuration; the exit code.

  sources: recordings that are open already, such as a `pipelines.ArraySource` of waves in memory;
    they take the place of `cfg.data.source`.
  """
  few_heaps()
  if not cfg.dry_run:
    join_cluster(cfg.loop.peer_seconds)
  task = dasheng_task(cfg.model)
  optimiser = make_optimiser(cfg.optim, cfg.loop.steps, cfg.model.compute.kernels)
  try:
    check_crop(cfg.model, cfg.data.crop_samples)
  except ConfigError as error:
    raise UsageError(f"--data.crop_seconds {cfg.data.crop_seconds:g}: {error}") from None
  if cfg.data.sample_rate != cfg.model.mel.sample_rate:
    raise UsageError(
      f"--data.sample_rate {cfg.data.sample_rate}: the model hears {cfg.model.mel.sample_rate} Hz"
    )
  if cfg.model.compute.attention == "cudnn" and jax.default_backend() != "gpu":
    raise UsageError("--model.compute.attention cudnn needs an NVIDIA GPU; use xla")
  if cfg.dry_run:
    print(dry_run(cfg, task, optimiser))
    return 0
  if cfg.data.source == NO_SOURCE and not sources:
    raise UsageError(
      "--data.source: name a folder of audio, a manifest or shards (or synthetic, to try it out)"
    )
  keep_programs(cfg.compile_cache)
  mesh = make_mesh(cfg.mesh)
  check_batch(cfg.loop.batch_size, mesh, cfg.optim.accumulate)
  if not cfg.workdir:
    raise UsageError("--workdir: name the folder of the run, e.g. --workdir runs/first")

  with Workdir(Path(cfg.workdir), active=jax.process_index() == 0) as place:
    return _train(cfg, task, optimiser, mesh, sources, place)


def _train(
  cfg: PretrainConfig,
  task: Task,
  optimiser: Optimiser,
  mesh: jax.sharding.Mesh,
  sources: Sequence[Source],
  place: Workdir,
) -> int:
  """The run itself, in a folder that is claimed; the exit code."""
  workdir = place.folder
  ledger = Ledger(log=False)  # the loop names what is found, above its progress line
  trainset = open_dataset(cfg.data, "train", cfg.loop.seed, sources, ledger)
  held_out = None
  if cfg.data.holdout:
    held_out = open_dataset(cfg.data, "holdout", cfg.loop.seed, sources, ledger)
  comparison = _comparison(cfg, workdir)
  say(_introduction(cfg, task, optimiser, mesh, trainset, held_out))
  say_unusable(trainset.skipped)

  run = Run(
    task=task,
    optimiser=optimiser,
    mesh=mesh,
    cfg=cfg.loop,
    workdir=workdir,
    batches=functools.partial(_training_batches, cfg, trainset),
    validation=functools.partial(_validation_batches, cfg, held_out) if held_out else None,
    record=config_io.to_dict(cfg),
    data=fingerprint(trainset),
    may_differ=MAY_DIFFER,
    clip_seconds=cfg.data.crop_seconds,
    unusable=Unusable(workdir, ledger, trainset.skipped),
    still_there=place.check,
    young=config_io.to_dict(PretrainConfig()),
  )
  began = time.monotonic()
  try:
    outcome = train(run, functools.partial(_before, cfg, workdir, comparison))
  except Interrupted as interrupted:
    say(f"pretrain: {interrupted}")
    return 128 + interrupted.signal_number
  _finish(cfg, task, optimiser, mesh, outcome, held_out, comparison, workdir, began)
  return 0


def _comparison(cfg: PretrainConfig, workdir: Path) -> BeforeAfter | None:
  if not cfg.knn.tasks:
    return None
  if jax.process_count() > 1:
    raise UsageError("--knn.tasks: evaluate on one machine, with experiments.evaluate")
  knn = cfg.knn
  return BeforeAfter.open(knn.tasks, knn.pooling, knn.k, knn.rivals, workdir)


def _training_batches(
  cfg: PretrainConfig, dataset: Dataset, start: int, steps: int, host: int, hosts: int
) -> Any:
  return batches(
    dataset,
    batch_size=cfg.loop.batch_size,
    seed=cfg.loop.seed,
    start_step=start,
    steps=steps,
    host_index=host,
    host_count=hosts,
  )


def _validation_batches(cfg: PretrainConfig, dataset: Dataset, host: int, hosts: int) -> Any:
  return evaluation_batches(dataset, cfg.loop.batch_size, host_index=host, host_count=hosts)


def _before(
  cfg: PretrainConfig,
  workdir: Path,
  comparison: BeforeAfter | None,
  state: TrainState,
  new: bool,
) -> None:
  """Evaluates the encoder that the run starts from, unless an earlier start did.

  Nothing is written before this: only here is it known that the folder holds no other run.
  """
  write_record(workdir / "config.json", config_io.to_dict(cfg))
  if comparison is None or not new:
    return
  comparison.path.unlink(missing_ok=True)
  comparison.encoder(INITIAL, for_evaluation(cfg.model), encoder_of(state))
  say(f"k-NN before training: {comparison.line(INITIAL)}")


def _finish(
  cfg: PretrainConfig,
  task: Task,
  optimiser: Optimiser,
  mesh: jax.sharding.Mesh,
  outcome: Outcome,
  held_out: Dataset | None,
  comparison: BeforeAfter | None,
  workdir: Path,
  began: float,
) -> None:
  """Exports the encoder, draws the pictures, evaluates, and sums up."""
  encoder = on_host(encoder_of(outcome.state))
  if jax.process_index() == 0:
    folder = workdir / "export"
    folder.mkdir(exist_ok=True)
    for name in ("encoder.safetensors", "encoder.pt"):
      write_encoder_file(folder / name, cfg.model, encoder)
    write_record(folder / "config.json", official_config(cfg.model))
  pictures = draw_pictures(cfg, outcome.state, held_out, workdir)

  if comparison is not None:
    evaluated = for_evaluation(cfg.model)
    initial = encoder_of(init_state(task, optimiser, mesh, cfg.loop.seed))
    if INITIAL not in comparison.results():
      comparison.encoder(INITIAL, evaluated, initial)
    calibrated = {**initial, "batch_stats": encoder["batch_stats"]}
    comparison.encoder(CALIBRATED, evaluated, on_host(calibrated))
    comparison.encoder(TRAINED, evaluated, encoder)
    comparison.evaluate_rivals()

  summary = {
    **run_figures(outcome, cfg.loop.steps, began, workdir),
    "validation_loss": outcome.validation_loss,
    "best_checkpoint": outcome.best_step,
    "encoder": str(workdir / "export" / "encoder.safetensors"),
    "pictures": ", ".join(str(p) for p in pictures),
  }
  if jax.process_index() == 0:
    record = {**summary, "knn": comparison.results()} if comparison else summary
    write_record(workdir / entry.SUMMARY, record)
    say("\n" + block(summary))
    if comparison is not None:
      say("\nk-NN accuracy, one group left out at a time\n" + comparison.table())


def _introduction(
  cfg: PretrainConfig,
  task: Task,
  optimiser: Optimiser,
  mesh: jax.sharding.Mesh,
  trainset: Dataset,
  held_out: Dataset | None,
) -> str:
  state = abstract_state(task, optimiser)
  sizes = {
    half: sum(x.size for x in jax.tree.leaves(state.params[half]))
    for half in ("encoder", "decoder")
  }
  table = state_placements(task, state, mesh)
  megabytes = sum(p.bytes_per_device for p in jax.tree.leaves(table)) / 1e6
  lines = [
    f"model     encoder {sizes['encoder']:,} + decoder {sizes['decoder']:,} parameters, "
    f"{cfg.model.compute.dtype}",
    devices_line(mesh, megabytes),
    f"training  {trainset.describe()}",
  ]
  if held_out is not None:
    lines.append(f"held out  {held_out.describe()}")
  lines.append(
    f"run       {cfg.loop.steps:,} steps of {cfg.loop.batch_size} clips, folder {cfg.workdir}"
  )
  return "\n".join(lines)


def dry_run(cfg: PretrainConfig, task: Task, optimiser: Optimiser) -> str:
  """The parameter and sharding table, after tracing the whole step; allocates nothing.

  The devices are imagined: any mesh can be looked at on any machine. Without a size for the mesh it
  is that of the devices at hand.
  """
  mesh = imagined_mesh(cfg.mesh, len(jax.devices()))
  check_batch(cfg.loop.batch_size, mesh, cfg.optim.accumulate)
  state = abstract_state(task, optimiser)
  wave = jax.ShapeDtypeStruct((cfg.loop.batch_size, cfg.data.crop_samples), np.float32)
  valid = jax.ShapeDtypeStruct((cfg.loop.batch_size,), np.int32)
  with jax.sharding.use_abstract_mesh(mesh):
    step = functools.partial(train_step, task=task, optimiser=optimiser, seed=cfg.loop.seed)
    _, metrics = jax.eval_shape(step, state, {"wave": wave, "valid": valid})
  table = state_placements(task, state, mesh)
  halves = {
    half: sum(x.size for x in jax.tree.leaves(state.params[half]))
    for half in ("encoder", "decoder")
  }
  total = sum(p.bytes_per_device for p in jax.tree.leaves(table)) / 1e6
  return "\n".join(
    [
      format_table(table.params),
      "",
      f"encoder {halves['encoder']:,} + decoder {halves['decoder']:,} parameters",
      f"state with optimiser: {total:,.1f} MB on each of {mesh.size} device(s)",
      f"batch {cfg.loop.batch_size} x {cfg.data.crop_samples} samples, {batch_sharding(mesh).spec}",
      f"the step traces and returns {', '.join(sorted(metrics))}",
    ]
  )


if __name__ == "__main__":
  cli.run_main(
    main,
    EXPERIMENTS,
    prog="pretrain",
    description="Pre-trains Dasheng, the masked autoencoder, on any audio; resumes by itself.",
  )
