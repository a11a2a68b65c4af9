"""Batches of a set with devices, and a short run on it from end to end."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import score
from experiments.configs.finetune import adam, labelled_data
from experiments.configs.supervised import EpochLoopConfig, SupervisedConfig
from experiments.supervised import run as module
from experiments.supervised.devices import add_main_device
from experiments.supervised.prepare import prepare
from experiments.supervised.recipe import AugmentConfig, DistilConfig
from experiments.supervised.run import run
from experiments.training.mesh import make_mesh
from experiments.training.metrics import read_metrics
from mobile_jax import config
from mobile_jax.config import MNConfig
from mobile_jax.network import init_variables
from mobile_jax.weights.load import write_model
from pipelines import batches, evaluation_batches
from pipelines.kaldi_mel import KaldiMelConfig
from pipelines.ledger import Ledger
from pipelines.sets.tau import device_of
from pipelines.torch_tensor import read_tensor
from tests.experiments.tiny_pretrain import quick_compiles
from tests.mobile_jax.fixtures import GOLDEN
from tests.pipelines.conftest import index_cache  # noqa: F401
from tests.pipelines.sets.tau_files import write_audio, write_tables

replace = dataclasses.replace
# As many rows and classes as the stored tensor has: six recordings, three scenes.
LISTED = (
  *("bus-lyon-1-2-0-a", "park-lyon-1-2-0-b", "tram-lyon-1-2-0-s1", "bus-lyon-1-2-1-a"),
  *("park-lyon-3-2-0-s4", "tram-lyon-3-2-0-a"),
)
TINY = SupervisedConfig(
  model=MNConfig(width=0.1, mel=KaldiMelConfig(mel_bins=32)).with_compute(kernels="xla"),
  data=replace(labelled_data(0.1, "single"), cache="memory"),
  augment=AugmentConfig(roll=100, wave_mixup=0.0, mixup=0.0),
  optim=adam(1e-3),
  loop=EpochLoopConfig(epochs=1, batch_size=4, log_every=1),
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tau22")
  write_tables(folder, LISTED, {"train": LISTED[:4], "evaluate": LISTED[4:]})
  write_audio(folder, LISTED)
  return folder


def configured(scenes, workdir, name="tau22", **changes):
  data = replace(TINY.data, source=(f"{name}={scenes}",))
  return replace(TINY, data=data, workdir=str(workdir), **changes)


def test_batches_say_who_recorded(scenes, tmp_path):
  ready = prepare(configured(scenes, tmp_path), Ledger(log=False), 1)
  with batches(ready.train, batch_size=4, seed=0, steps=1) as steps:
    batch = next(steps)
  assert batch["main_device"].dtype == bool
  assert batch["main_device"].tolist() == [device_of(str(i)) == "a" for i in batch["id"]]
  assert batch["main_device"].sum() == 2
  assert ready.train.fields["main_device"](np.array([-1, 0])).tolist() == [False, True]
  known = ready.labelled.devices
  add_main_device(ready.train, replace(ready.labelled, devices=replace(known, main="z")))
  assert not ready.train.fields["main_device"](np.arange(4)).any()
  with evaluation_batches(ready.test, 4) as steps:
    batch = next(steps)
  assert batch["device"].tolist() == [3, 0, -1, -1]  # s4 and a, of a, b, s1 and s4
  assert batch["device"].dtype == np.int32


@pytest.mark.parametrize("name", ["tau22", "tau22_joined"])
def test_stored_logits_are_those_of_the_piece(scenes, tmp_path, name):
  how = {"teacher": str(GOLDEN / "torch_tensor.pt"), "teacher_ids": str(scenes / "meta.csv")}
  ready = prepare(configured(scenes, tmp_path, name, **how), Ledger(log=False), 1)
  with batches(ready.train, batch_size=8, seed=0, steps=1) as steps:
    batch = next(steps)
  rows = [LISTED.index(str(i).removesuffix(".wav")) for i in batch["id"]]
  np.testing.assert_array_equal(batch["teacher"], read_tensor(GOLDEN / "torch_tensor.pt")[rows])
  assert batch["known"].all()


@pytest.fixture
def small(monkeypatch):
  """Networks of two blocks, on one device."""
  monkeypatch.setattr(config, "_TABLE", tuple(config._TABLE[i] for i in (0, 3)))
  monkeypatch.setattr(module, "make_mesh", lambda cfg: make_mesh(cfg, jax.devices()[:1]))
  with quick_compiles():
    yield


def scored(scenes, folder, model):
  """Scores of a network on the test part, as `experiments.score` writes them: rows by name."""
  data = replace(TINY.data, source=(f"tau22={scenes}",))
  score.main(score.ScoreConfig(models=(str(model),), out=str(folder), data=data))
  assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")
  return by_name(folder / "devices.csv")


def by_name(path):
  with path.open(newline="") as file:
    return {row["name"]: row for row in csv.DictReader(file)}


def test_scores_by_device_of_any_network(scenes, tmp_path, small, capsys):
  model = replace(TINY.model, classes=3)
  variables = jax.jit(lambda key: init_variables(model, key))(jax.random.key(0))
  write_model(tmp_path / "model.safetensors", model, jax.device_get(variables))
  rows = scored(scenes, tmp_path, tmp_path / "model.safetensors")
  assert [(row["kind"], name, row["clips"]) for name, row in rows.items()] == [
    ("all", "all", "2"),
    ("group", "real", "1"),
    ("group", "unseen", "1"),
    ("device", "a", "1"),
    ("device", "s4", "1"),
  ]
  record = json.loads((tmp_path / "scores.json").read_text())["model.safetensors"]
  assert record["accuracy_unseen"] == float(rows["s4"]["accuracy"])
  assert record["log_loss"] == pytest.approx(
    (float(rows["a"]["log_loss"]) + float(rows["s4"]["log_loss"])) / 2
  )
  assert "| unseen" in (tmp_path / "devices.md").read_text()
  assert "accuracy_real" in capsys.readouterr().out


@pytest.mark.slow
def test_a_distillation_is_scored_by_device(scenes, tmp_path, small, capsys):
  """Shifted windows, the authors' form of stored logits, and a report with groups."""
  how = {"teacher": str(GOLDEN / "torch_tensor.pt"), "teacher_ids": str(scenes / "meta.csv")}
  cfg = configured(scenes, tmp_path / "run", "tau22_joined", **how, distil=DistilConfig(0.02, 2.0))
  assert run(cfg, "distill") == 0
  report = json.loads((tmp_path / "run" / "report.json").read_text())
  held_out = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
  for name in ("accuracy", "class_log_loss", "accuracy_real", "accuracy_unseen"):
    assert report[name] == pytest.approx(held_out[name], abs=1e-6)
  assert "accuracy_seen" not in report  # no such clip in the test part
  rows = by_name(tmp_path / "run" / "devices.csv")
  again = scored(scenes, tmp_path, tmp_path / "run" / "export" / "model.safetensors")
  assert rows.keys() == again.keys()
  for name, row in rows.items():
    assert float(row["log_loss"]) == pytest.approx(float(again[name]["log_loss"]), abs=1e-6)
  assert "training  tau22_joined train: 4 clips" in capsys.readouterr().err
