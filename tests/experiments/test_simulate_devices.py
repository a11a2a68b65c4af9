"""A set with simulated devices: layout, who hears what, and what a device does to a wave."""

import csv
import dataclasses

import numpy as np
import pytest
import scipy.signal
import soundfile

from experiments import simulate_devices as module
from experiments.training.errors import UsageError
from pipelines.errors import DataError
from pipelines.tasks import LabelledSet

RATE = module.RATE


def recordings():
  """Two classes, two groups, three seconds each; the last one is silent after its first second."""
  waves = [np.random.default_rng(i).normal(0, 0.1, 3 * RATE).astype(np.float32) for i in range(8)]
  waves[-1][RATE:] = 0
  return LabelledSet(
    name="sounds",
    ids=[str(i) for i in range(8)],
    labels=np.array([0, 1] * 4),
    groups=["x"] * 2 + ["y-z"] * 6,
    classes=["dog-bark", "rain"],
    load=lambda i, rate: waves[i],
  )


@pytest.fixture
def cfg(tmp_path, monkeypatch):
  monkeypatch.setattr(module, "open_task", lambda spec: recordings())
  (tmp_path / "mics").mkdir()
  for name, delay in (("near", 2), ("far", 400), ("other", 9)):
    response = np.zeros(500, np.float32)
    response[delay] = 0.5
    soundfile.write(tmp_path / "mics" / f"{name}.wav", response, RATE, subtype="FLOAT")
  return module.SimulateDevicesConfig(
    source="sounds=here",
    responses=str(tmp_path / "mics"),
    devices=("b=near.wav", "s4=far.wav"),
    share=0.5,
    pieces=2,
    out=str(tmp_path / "out"),
  )


def table(path):
  with path.open(newline="") as file:
    return list(csv.DictReader(file, delimiter="\t"))


def test_the_layout_and_who_hears_what(cfg, tmp_path):
  module.main(cfg)
  out = tmp_path / "out"
  rows = table(out / "meta.csv")
  (first,) = [row for row in rows if row["filename"] == "audio/dog_bark-group_x-0-0-0-a.wav"]
  assert (first["scene_label"], first["identifier"], first["source_label"]) == (
    "dog_bark",
    "group_x-0",
    "a",
  )
  assert {row["filename"] for row in rows} == {
    f"audio/{path.name}" for path in (out / "audio").iterdir()
  }
  device = {row["filename"]: row["source_label"] for row in rows}
  train = [device[row["filename"]] for row in table(out / "evaluation_setup/fold1_train.csv")]
  test = [device[row["filename"]] for row in table(out / "evaluation_setup/fold1_evaluate.csv")]
  # Two recordings of two seconds on three devices; six, of one of which a second is silent.
  assert {name: test.count(name) for name in "ab"} == {"a": 4, "b": 4}
  assert test.count("s4") == 4
  assert train.count("a") == 11
  assert "s4" not in train
  assert train.count("b") in (5, 6)  # three of the six recordings
  assert len(table(out / "evaluation_setup/fold1_test.csv")) == len(test)
  assert [path.name for path in (out / "responses").iterdir()] == ["other.wav"]


def test_a_device_is_its_response_over_the_whole_recording(cfg, tmp_path):
  """The second piece begins with the end of the first one, late."""
  module.main(cfg)
  wave = recordings().load(0, RATE)
  heard = scipy.signal.lfilter(np.r_[np.zeros(400), 0.5], [1.0], wave)
  found, rate = soundfile.read(tmp_path / "out/audio/dog_bark-group_x-0-0-1-s4.wav")
  assert rate == RATE
  np.testing.assert_allclose(found, heard[RATE : 2 * RATE], atol=1e-6)
  plain, _ = soundfile.read(tmp_path / "out/audio/dog_bark-group_x-0-0-1-a.wav")
  np.testing.assert_array_equal(plain.astype(np.float32), wave[RATE : 2 * RATE])


def test_the_seed_decides_what_a_device_hears(cfg, tmp_path):
  def heard_by_b(seed):
    out = tmp_path / f"out{seed}"
    module.main(dataclasses.replace(cfg, seed=seed, out=str(out)))
    rows = table(out / "evaluation_setup/fold1_train.csv")
    return frozenset(row["filename"] for row in rows if "-b.wav" in row["filename"])

  several = [heard_by_b(seed) for seed in (1, 2, 3, 4)]
  assert len(set(several)) > 1
  (tmp_path / "out1").rename(tmp_path / "old")
  assert heard_by_b(1) == several[0]


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"source": ""}, "--source is missing"),
    ({"devices": ("a=near.wav",)}, "--devices 'a=near.wav': write DEVICE=FILE"),
    ({"devices": ("b=near.wav", "b=far.wav")}, "each once"),
    ({"devices": ("b=absent.wav",)}, "absent.wav"),
    ({"test": "w"}, "--test w: sounds has the groups x, y-z"),
  ],
)
def test_what_cannot_be_made_is_told_before_anything_is_written(cfg, change, match, tmp_path):
  with pytest.raises((UsageError, DataError), match=match):
    module.main(dataclasses.replace(cfg, **change))
  assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_left_alone(cfg, tmp_path):
  (tmp_path / "out").mkdir()
  with pytest.raises(UsageError, match="is there already"):
    module.main(cfg)
  for share in (0.0, 1.5):
    with pytest.raises(UsageError, match="--share"):
      dataclasses.replace(cfg, share=share)
