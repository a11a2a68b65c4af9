"""Scores of clips with one class by the device that recorded them, and by groups of devices.

Figures of a group are pooled over its clips; they are no means over its devices. Source: reference
text of the scene models, section 9, and the tables of section 10.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.evaluation.report import markdown_table
from experiments.evaluation.scores import Scores, class_scores, clip_log_loss
from pipelines.errors import DataError
from pipelines.sets import RecordingDevices

SHOWN = ("accuracy", "class_accuracy", "log_loss", "class_log_loss")


def device_scores(
  logits: np.ndarray, labels: np.ndarray, device: np.ndarray, devices: RecordingDevices
) -> Scores:
  """`class_scores` of all clips, with those of each device and group that has any.

  Args:
    logits: f32[n, k].
    labels: i32[n].
    device: i32[n], number of the device of each clip in devices.names.
    devices: of the set.

  Returns:
    Scores whose means also have class_log_loss, the mean over classes, and accuracy_GROUP for every
    group that has a clip.
  """
  if device.shape != (len(logits),) or not np.isin(device, range(len(devices.names))).all():
    raise DataError(
      f"scores: devices {device.shape} must be one of {len(devices.names)} for each of "
      f"{len(logits)} clips"
    )

  def of(names: Sequence[str]) -> Scores | None:
    chosen = np.isin(device, [i for i, name in enumerate(devices.names) if name in names])
    return _scores(logits[chosen], labels[chosen]) if chosen.any() else None

  per_device = {name: found for name in devices.names if (found := of([name]))}
  groups = {name: found for name, within in devices.groups.items() if (found := of(within))}
  whole = _scores(logits, labels)
  accuracies = {f"accuracy_{name}": found.means["accuracy"] for name, found in groups.items()}
  return dataclasses.replace(
    whole, means={**whole.means, **accuracies}, devices=per_device, groups=groups
  )


def _scores(logits: np.ndarray, labels: np.ndarray) -> Scores:
  found = class_scores(logits, labels)
  class_log_loss = float(np.nanmean(found.per_class["log_loss"]))
  return dataclasses.replace(found, means={**found.means, "class_log_loss": class_log_loss})


def released_val_loss(logits: np.ndarray, labels: np.ndarray, batch_size: int) -> float:
  """The mean over batches of each batch's mean of -ln p, as the released code logs `val_loss`.

  The last batch, which may be smaller, counts as much as any: `log_loss` is the mean over clips.
  """
  losses = clip_log_loss(logits, labels)
  batches = np.split(losses, range(batch_size, len(losses), batch_size))
  return float(np.mean([batch.mean() for batch in batches]))


def device_records(scores: Scores) -> list[dict[str, Any]]:
  """One record for all clips, for each group, and for each device."""
  rows = {("all", "all"): scores}
  rows |= {("group", name): found for name, found in scores.groups.items()}
  rows |= {("device", name): found for name, found in scores.devices.items()}
  return [
    {"kind": kind, "name": name, "clips": int(found.per_class["clips"].sum())}
    | {figure: found.means[figure] for figure in SHOWN}
    for (kind, name), found in rows.items()
  ]


def device_table(records: Sequence[Mapping[str, Any]]) -> str:
  """Markdown: a row for all clips, each group and each device."""
  rows = [
    [row["kind"], row["name"], str(row["clips"]), *(f"{row[figure]:.4f}" for figure in SHOWN)]
    for row in records
  ]
  return markdown_table(["of", "name", "clips", *SHOWN], rows)
