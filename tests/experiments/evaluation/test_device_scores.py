"""Scores by recording device against every value that the released evaluation logged."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from experiments.evaluation.device_scores import (
  device_records,
  device_scores,
  device_table,
  released_val_loss,
)
from pipelines.errors import DataError
from pipelines.sets import RecordingDevices
from pipelines.sets.tau import GROUPS, MAIN_DEVICE, device_of

CLASSES = (
  *("airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall"),
  *("street_pedestrian", "street_traffic", "tram"),
)
NAMES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
DEVICES = RecordingDevices(NAMES, MAIN_DEVICE, GROUPS, device_of)
# The reference sums 200 losses of about 2 in float32: within 2e-6 of their mean.
NOISE = {"rtol": 0.0, "atol": 2e-6}


@pytest.fixture(scope="module")
def recorded(scene_fixtures):
  from safetensors.numpy import load_file

  with (scene_fixtures / "scene_metrics_meta.csv").open(newline="") as file:
    rows = list(csv.DictReader(file, delimiter="\t"))
  logits = load_file(scene_fixtures / "scene_metrics.safetensors")["logits"]
  labels = np.array([CLASSES.index(row["scene_label"]) for row in rows])
  device = DEVICES.numbers(row["filename"] for row in rows)
  want = json.loads((scene_fixtures / "scene_metrics.json").read_text())
  return logits, labels, device, want


def test_every_recorded_figure(recorded):
  logits, labels, device, want = recorded
  found = device_scores(logits, labels, device, DEVICES)
  ours = {
    "val_acc": found.means["accuracy"],
    "macro_avg_acc": found.means["class_accuracy"],
    "val_loss": released_val_loss(logits, labels, 64),
  }
  for name, one in found.devices.items():
    ours |= {f"vacc.{name}": one.means["accuracy"], f"vloss.{name}": one.means["log_loss"]}
    ours[f"vcnt.{name}"] = one.per_class["clips"].sum()
  for name, one in found.groups.items():
    ours |= {f"acc.{name}": one.means["accuracy"], f"lloss.{name}": one.means["log_loss"]}
    ours[f"count.{name}"] = one.per_class["clips"].sum()
    assert found.means[f"accuracy_{name}"] == one.means["accuracy"]
  for i, name in enumerate(CLASSES):
    for ours_name, theirs in (("accuracy", "vacc"), ("log_loss", "vloss"), ("clips", "vcnt")):
      ours[f"{theirs}.{name}"] = found.per_class[ours_name][i]
  assert ours.keys() == want.keys()
  np.testing.assert_allclose([ours[n] for n in want], list(want.values()), **NOISE)
  classes = [want[f"vloss.{name}"] for name in CLASSES]
  assert found.means["class_log_loss"] == pytest.approx(np.mean(classes), abs=2e-6)


@pytest.fixture(scope="module")
def drawn():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 2, (60, 4)).astype(np.float32)
  return logits, rng.integers(0, 4, 60), rng.integers(0, 5, 60).astype(np.int32)


def test_groups_are_pooled_as_scikit_learn_has_it(drawn):
  logits, labels, device = drawn
  devices = RecordingDevices(tuple("abcde"), "a", {"x": ("a", "d"), "y": ("z",)}, device_of)
  found = device_scores(logits, labels, device, devices)
  assert list(found.groups) == ["x"]  # nobody recorded with z
  assert "accuracy_y" not in found.means
  inside = (device == 0) | (device == 3)
  p = np.exp(logits.astype(np.float64))
  p = (p / p.sum(axis=1, keepdims=True))[inside]
  y = labels[inside]
  means = found.groups["x"].means
  assert means["accuracy"] == pytest.approx(accuracy_score(y, p.argmax(axis=1)))
  assert means["class_accuracy"] == pytest.approx(balanced_accuracy_score(y, p.argmax(axis=1)))
  assert means["log_loss"] == pytest.approx(log_loss(y, p, labels=range(4)), rel=1e-6)
  assert found.groups["x"].confusion.sum() == inside.sum()


def test_the_released_loss_weighs_batches_not_clips(drawn):
  logits, labels, _ = drawn
  whole = device_scores(logits, labels, np.zeros(60, np.int32), DEVICES).means["log_loss"]
  assert released_val_loss(logits, labels, 60) == pytest.approx(whole)
  assert released_val_loss(logits, labels, 20) == pytest.approx(whole)
  assert released_val_loss(logits, labels, 59) != pytest.approx(whole, rel=1e-3)
  one = [released_val_loss(logits[i : i + 1], labels[i : i + 1], 1) for i in range(60)]
  assert released_val_loss(logits, labels, 59) == pytest.approx((np.mean(one[:59]) + one[59]) / 2)


def test_a_row_for_all_for_groups_and_for_devices(drawn):
  logits, labels, device = drawn
  records = device_records(device_scores(logits, labels, device, DEVICES))
  assert [(row["kind"], row["name"]) for row in records] == [
    ("all", "all"),
    *(("group", name) for name in ("real", "seen")),
    *(("device", name) for name in NAMES[:5]),
  ]
  assert records[0]["clips"] == 60 == sum(row["clips"] for row in records[3:])
  assert f"{records[1]['class_log_loss']:.4f}" in device_table(records)


def test_devices_that_do_not_belong_to_the_clips(drawn):
  logits, labels, device = drawn
  for wrong in (device[:-1], device + 5, device - 1):
    with pytest.raises(DataError, match="must be one of 9 for each of 60 clips"):
      device_scores(logits, labels, wrong.astype(np.int32), DEVICES)
