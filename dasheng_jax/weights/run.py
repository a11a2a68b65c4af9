"""The model of a training run that has exported none: straight from a checkpoint of the run.

    RUN/checkpoints/STEP/meta   json: configuration, and shape, type and checksum of every array
    RUN/checkpoints/STEP/state  every array of the training state (orbax)

Only the model's arrays are read (of `read_checkpoint` the encoder's), whatever the size of the
rest. Where the run keeps a moving average of its parameters, that is the model, as in the export at
its end.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dasheng_jax.blocks import stack_layers
from dasheng_jax.config import ComputeConfig, DashengConfig
from dasheng_jax.errors import WeightsError
from dasheng_jax.mae import init_variables
from dasheng_jax.weights.checksum import checksums
from dasheng_jax.weights.config_json import parsed_json, restored
from dasheng_jax.weights.orbax_arrays import restore_arrays
from dasheng_jax.weights.table import flatten, unflatten

CHECKPOINTS = "checkpoints"


def newest_step(folder: Path) -> Path | None:
  """The newest complete checkpoint in a run's folder or its checkpoints folder, or `folder` itself.

  None where there is no checkpoint. One that is being written has another name until it is whole.
  """
  if (folder / "meta").is_dir() and (folder / "state").is_dir():
    return folder
  for parent in (folder / CHECKPOINTS, folder):
    steps = [step for step in parent.glob("*") if step.name.isdigit() and step.is_dir()]
    if steps:
      return max(steps, key=lambda step: int(step.name))
  return None


def read_checkpoint(step: Path) -> tuple[DashengConfig, dict]:
  """(configuration, encoder variables in numpy, layers stacked) from one checkpoint.

  The configuration computes in float32, with scanned layers, whatever the run did. Raises
  WeightsError where the checkpoint is damaged, of another model, or written by another version.
  """
  cfg, tree = _read(step, ("encoder",))
  return cfg, {kind: halves["encoder"] for kind, halves in tree.items()}


def read_autoencoder(step: Path) -> tuple[DashengConfig, dict]:
  """As `read_checkpoint`, of the whole model: what `pretrain_loss` takes."""
  return _read(step, ("encoder", "decoder"))


def _read(step: Path, halves: tuple[str, ...]) -> tuple[DashengConfig, dict]:
  """(configuration, {"params", "batch_stats"} of the named halves)."""
  meta = _read_meta(step)
  try:
    saved, record = meta["config"]["model"], dict(meta["arrays"])
  except (KeyError, TypeError, ValueError):
    raise WeightsError(
      f"{step}: no checkpoint of a Dasheng run (its meta names no model)"
    ) from None
  cfg = restored(DashengConfig(), saved, f"{step}: model")
  # How the run computed is its own affair, and may need a device that is not here.
  scanned = cfg.compute.scan
  cfg = dataclasses.replace(cfg, compute=ComputeConfig(scan=scanned))
  shapes = jax.eval_shape(functools.partial(init_variables, cfg), jax.random.key(0))
  kept = "ema" if any(path.startswith("ema/") for path in record) else "params"
  home = {"params": kept, "batch_stats": "model_state"}
  wanted = {
    f"{home[kind]}/{half}/{path}": leaf
    for kind in home
    for half in halves
    if half in shapes[kind]
    for path, leaf in flatten(shapes[kind][half]).items()
  }
  for path, leaf in wanted.items():
    if list(record.get(path, ()))[:2] != [list(leaf.shape), str(leaf.dtype)]:
      raise WeightsError(
        f"{step}: its {path} is not that of the model it names; foreign or damaged"
      )
  arrays = _restore(step, wanted)
  sums = jax.device_get(checksums(arrays))
  wrong = [path for path in wanted if int(sums[path]) != record[path][2]]
  if wrong:
    raise WeightsError(_damaged(step, f"checksum of {wrong[0]} ({len(wrong)} arrays)"))
  tree = unflatten(arrays)
  params = tree[kept]
  if not scanned:
    params = {k: {**half, "blocks": stack_layers(half["blocks"])} for k, half in params.items()}
  return cfg.with_compute(scan=True), {"params": params, "batch_stats": tree["model_state"]}


def _read_meta(step: Path) -> dict[str, Any]:
  path = step / "meta" / "metadata"
  try:
    meta = parsed_json(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise WeightsError(_damaged(step, f"meta/metadata: {error}")) from None
  if not isinstance(meta, dict):
    raise WeightsError(_damaged(step, "meta/metadata is no json object"))
  return meta


def _restore(step: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
  """The wanted arrays of the state, by path, on the host."""
  try:
    return restore_arrays(step / "state", wanted)
  except WeightsError as error:
    raise WeightsError(_damaged(step, str(error))) from None


def _damaged(step: Path, reason: str) -> str:
  """One line, with the checkpoints that are left to try."""
  others = [s.name for s in step.parent.glob("*") if s.name.isdigit() and s.name != step.name]
  way = f"pass {step.parent / max(others, key=int)} instead" if others else "no other one is there"
  return f"{step}: damaged checkpoint: {' '.join(reason.split())[:200]}; {way}"
