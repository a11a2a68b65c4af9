"""What a quantisation-aware run leaves: integers, their cost under the limits, and scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.part_scores import score_of
from experiments.evaluation.report import markdown_table
from experiments.evaluation.scores import Scores
from experiments.supervised.prepare import Prepared
from experiments.supervised.report import Report, outputs_of
from experiments.supervised.run import training_batches
from experiments.training.metrics import FILE as METRICS_FILE
from experiments.training.metrics import write_json
from experiments.training.pictures import loss_curve
from mobile_jax.complexity import measure
from mobile_jax.complexity.report import elements
from mobile_jax.inference import log_mel
from mobile_jax.quantised import (
  convert,
  float_logits,
  fresh_ranges,
  integer_logits,
  observed_logits,
  simulated_logits,
)
from mobile_jax.quantised.files import size_in_bytes, write_integers
from mobile_jax.scene_config import CPMobileConfig
from pipelines.sets import TrainingSet

# DCASE 2023 task 1: parameters in eight bits, and multiply-accumulates for a clip of a second.
LIMITS = {"parameters": 128_000, "macs": 30_000_000}
# Row of the table -> key of its figures.
ROWS = {
  "float, as given": "float",
  "int8, calibrated on one batch": "calibrated",
  "fine-tuned, simulated": "simulated",
  "fine-tuned, int8": "int8",
}


def validation_scores(
  labelled: TrainingSet, outputs: np.ndarray, given: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """Figures of the simulation under their names, and of the integers with "int8_" before them."""
  simulated, integer = (score_of(labelled, outputs[:, i], given).means for i in range(2))
  return simulated | {f"int8_{name}": value for name, value in integer.items()}


def report_quantised(
  ready: Prepared,
  variables: dict[str, Any],
  workdir: Path,
  batch_size: int,
  devices: list[jax.Device],
) -> Report:
  """Writes export/int8.safetensors, loss.png, report.md and last report.json into the folder.

  batch_size, devices: as in `score_network`.
  """
  model = ready.cfg.model
  assert isinstance(model, CPMobileConfig)
  assert ready.start is not None
  folded, ranges = variables["params"], variables["ranges"]
  integers = jax.jit(lambda params, ranges: convert(model, params, ranges))(folded, ranges)
  (workdir / "export").mkdir(exist_ok=True)
  path = write_integers(workdir / "export" / "int8.safetensors", model, integers)
  begun = ready.start()["params"]
  calibrated = calibrated_integers(ready, begun)
  scores = _scores(ready, (begun, calibrated, folded, ranges, integers), batch_size, devices)
  costs = {
    "parameters": elements(folded),
    "macs": measure(model, frames=model.mel.frames(ready.cfg.data.crop_samples)).macs,
    "bytes": size_in_bytes(integers),
    "file_bytes": path.stat().st_size,
  }
  within = {name: costs[name] <= limit for name, limit in LIMITS.items()}
  table = _table(scores, costs)
  name = f"{ready.labelled.name}{f' fold {ready.cfg.fold}' if ready.cfg.fold else ''}"
  figures = {f"{row}_{key}": x for row, one in scores.items() for key, x in one.means.items()}
  record = {"set": name, "clips": len(ready.test), "init": ready.cfg.init, **figures, **costs}
  record |= {"limits": LIMITS, "within_limits": within}
  loss_curve(workdir / METRICS_FILE, workdir / "loss.png", title="Loss", chance=None)
  (workdir / "report.md").write_text(table + "\n", encoding="utf-8")
  write_json(workdir / "report.json", record)
  summary = {**figures, **costs, "within_limits": all(within.values()), "model": str(path)}
  return Report(summary, table)


def calibrated_integers(ready: Prepared, folded: Mapping[str, Any]) -> dict[str, Any]:
  """Integers of unchanged weights, with the ranges of the run's first batch of plain clips."""
  model = ready.cfg.model
  assert isinstance(model, CPMobileConfig)
  with training_batches(ready, 0, 1, 0, 1) as batches:
    wave = next(batches)["wave"]

  @jax.jit
  def measured(params: Any, wave: jax.Array) -> dict[str, Any]:
    _, ranges = observed_logits(model, params, fresh_ranges(model), log_mel(model, wave))
    return convert(model, params, ranges)

  return jax.device_get(measured(folded, wave))


def _scores(
  ready: Prepared, variables: tuple[Any, ...], batch_size: int, devices: list[jax.Device]
) -> dict[str, Scores]:
  """Of every form, in the order of `ROWS`, from one pass over the test part."""
  model = ready.cfg.model
  assert isinstance(model, CPMobileConfig)
  if len(devices) > 1:  # XLA does not split the CPU's own kernels over devices
    model = model.with_compute(kernels="xla")

  def forward(variables: tuple[Any, ...], wave: jax.Array) -> jax.Array:
    begun, calibrated, folded, ranges, integers = variables
    mel = log_mel(model, wave)
    forms = (
      float_logits(model, begun, mel),
      integer_logits(model, calibrated, mel),
      simulated_logits(model, folded, ranges, mel),
      integer_logits(model, integers, mel),
    )
    return jnp.stack(forms, axis=1)

  outputs, given = outputs_of(forward, variables, ready.test, batch_size, devices)
  return {
    name: score_of(ready.labelled, outputs[:, i], given) for i, name in enumerate(ROWS.values())
  }


def _table(scores: Mapping[str, Scores], costs: Mapping[str, int]) -> str:
  """Markdown: the scores of every form, then the costs beside their limits."""
  first = next(iter(scores.values()))
  rows = [[title, *scores[name].row()] for title, name in ROWS.items()]
  lines = [markdown_table(["CP-Mobile", *first.means], rows), ""]
  limited = [[name, f"{value:,}", *_judged(name, value)] for name, value in costs.items()]
  return "\n".join([*lines, markdown_table(["cost", "value", "limit", "met"], limited)])


def _judged(name: str, value: int) -> tuple[str, str]:
  if name not in LIMITS:
    return "-", "-"
  return f"{LIMITS[name]:,}", "yes" if value <= LIMITS[name] else "no"
