"""What a supervised run leaves: the network in the released layout, scores, tables, pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.configs.supervised import SupervisedConfig
from experiments.evaluation.device_scores import device_records, device_table
from experiments.evaluation.part_scores import score_of
from experiments.evaluation.report import markdown_table, write_report
from experiments.evaluation.scores import Scores, per_class_table
from experiments.supervised.pictures import draw_confusions
from experiments.training.metrics import FILE as METRICS_FILE
from experiments.training.metrics import write_json
from experiments.training.pictures import loss_curve
from mobile_jax.inference import alone, tag
from mobile_jax.network import Config
from mobile_jax.weights.load import has_names, write_folder, write_model
from pipelines import Dataset, evaluation_batches
from pipelines.sets import TrainingSet


class Report(NamedTuple):
  """What a run says at its end.

  Attributes:
    summary: figures for the summary.
    table: markdown, to show.
    test: figures of the test part, as `Method.compare` has them.
  """

  summary: dict[str, Any]
  table: str
  test: Mapping[str, float] = {}


def report_run(
  cfg: SupervisedConfig,
  labelled: TrainingSet,
  variables: dict[str, Any],
  test: Dataset,
  workdir: Path,
  batch_size: int,
  devices: Sequence[jax.Device],
) -> Report:
  """Writes export/, the pictures, the tables and last report.json into the folder.

  The tables are report.md, classes.csv, and devices.csv and devices.md where the set has devices.
  batch_size, devices: as in `score_network`.
  """
  exported = _export(cfg.model, variables, workdir / "export")
  scores = score_network(cfg.model, variables, test, labelled, batch_size, devices)
  name = f"{labelled.name}{f' fold {cfg.fold}' if cfg.fold else ''}"
  record = {"set": name, "clips": len(test), "init": cfg.init or "random", **scores.means}
  table = score_table([(name, scores)])
  (workdir / "report.md").write_text(table + "\n", encoding="utf-8")
  pictures = [loss_curve(workdir / METRICS_FILE, workdir / "loss.png", title="Loss", chance=None)]
  pictures += write_details(scores, labelled.classes, workdir, name)
  write_json(workdir / "report.json", record)
  summary = {
    **scores.means,
    "model": str(exported),
    "pictures": ", ".join(str(p) for p in pictures),
  }
  return Report(summary, table, scores.means)


def write_details(
  scores: Scores, classes: Sequence[str], folder: Path, name: str, end: str = ""
) -> list[Path]:
  """Writes what lies behind the figures of a set; returns the pictures.

  classes.csv always, confusion.png where clips have one class, and devices.csv and devices.md where
  devices are known; `end` follows each of these names.
  """
  table = score_table([(name, scores)])
  write_report(folder / f"classes{end}.csv", per_class_table(scores, classes), table)
  if scores.devices:
    records = device_records(scores)
    for suffix in (".csv", ".md"):
      write_report(folder / f"devices{end}{suffix}", records, device_table(records))
  if scores.confusion is None:
    return []
  parts = {name: scores} | {f"{group} devices": found for group, found in scores.groups.items()}
  return [draw_confusions(parts, classes, folder / f"confusion{end}.png")]


def _export(model: Config, variables: dict[str, Any], folder: Path) -> Path:
  """Writes the network as the released code has it, or, where that has no names, in our own way."""
  folder.mkdir(exist_ok=True)
  if not has_names(model):
    write_folder(folder / "model", model, variables)
    return folder / "model"
  for name in ("model.pt", "model.safetensors"):
    write_model(folder / name, model, variables)
  return folder / "model.safetensors"


def score_table(rows: list[tuple[str, Scores]]) -> str:
  """Markdown: a row for each set or fold, a column for each figure."""
  return markdown_table(
    ["set", *rows[0][1].means], [[name, *scores.row()] for name, scores in rows]
  )


def folds_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
  """Markdown: a row for each fold's report, then their mean and standard deviation."""
  first = next(iter(reports.values()))
  names = [n for n, x in first.items() if isinstance(x, float)]
  values = np.array([[report[name] for name in names] for report in reports.values()])
  rows = [
    [f"fold {fold}", str(report["clips"]), *(f"{report[name]:.4f}" for name in names)]
    for fold, report in reports.items()
  ]
  total = str(sum(report["clips"] for report in reports.values()))
  rows.append(["mean", total, *(f"{x:.4f}" for x in values.mean(axis=0))])
  rows.append(["deviation", "", *(f"{x:.4f}" for x in values.std(axis=0, ddof=1))])
  return markdown_table([str(first["set"]).split(" fold ")[0], "clips", *names], rows)


def score_network(
  model: Config,
  variables: dict[str, Any],
  dataset: Dataset,
  labelled: TrainingSet,
  batch_size: int = 32,
  devices: Sequence[jax.Device] | None = None,
) -> Scores:
  """The scores of a network on a whole data set, clip by clip as its configuration cuts them.

  No clip depends on those beside it, whatever the front end's clamp.

  labelled: the set that the data set is a part of.
  batch_size: clips on each device at once. devices: of this process; None is all of them.
  """
  devices = jax.local_devices() if devices is None else devices
  model = alone(model)
  if len(devices) > 1:  # XLA does not split the CPU's own kernels over devices
    model = model.with_compute(kernels="xla")

  def logits(variables: dict[str, Any], wave: jax.Array) -> jax.Array:
    return tag(model, variables, wave)[0]

  return score_of(labelled, *outputs_of(logits, variables, dataset, batch_size, devices))


def outputs_of(
  forward: Callable[[Any, jax.Array], jax.Array],
  variables: Any,
  dataset: Dataset,
  batch_size: int,
  devices: Sequence[jax.Device],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """(outputs, labels and the like) of all clips, of any (variables, wave f32[b, s]) -> [b, ...]."""
  mesh = Mesh(np.array(devices), "data")
  whole, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
  variables = jax.device_put(variables, whole)
  compiled = jax.jit(forward, in_shardings=(whole, rows))
  outputs, given = [], []
  with evaluation_batches(dataset, batch_size * len(devices)) as batches:
    for batch in batches:
      real = batch["mask"]
      outputs.append(np.asarray(compiled(variables, batch["wave"]))[real])
      given.append({name: batch[name][real] for name in dataset.fields})
  table = {name: np.concatenate([part[name] for part in given]) for name in given[0]}
  return np.concatenate(outputs), table
