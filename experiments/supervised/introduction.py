"""What a supervised run says of itself before it trains, and all that a dry run does."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dasheng_jax.errors import ConfigError
from experiments.supervised.prepare import Prepared
from experiments.training import entry
from experiments.training.errors import UsageError
from experiments.training.mesh import batch_sharding, check_batch, imagined_mesh
from experiments.training.optim import layer_shares
from experiments.training.state import abstract_state, state_placements
from experiments.training.step import train_step
from mobile_jax.families import size_of


def introduction(ready: Prepared, mesh: Mesh) -> str:
  """The network, the devices, the data and the length of the run."""
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
