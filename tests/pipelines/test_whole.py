"""Recordings cut to pieces that lose nothing, and recordings heard whole."""

import dataclasses

import numpy as np
import pytest
import soundfile

from pipelines import DataConfig, DataError, batches, evaluation_batches, open_dataset
from pipelines.whole import lengths
from tests.pipelines.conftest import tone

RATE = 16_000


@pytest.fixture
def folder(tmp_path):
  """Recordings of 0.1, 0.1, 0.25 and 0.26 s."""
  for name, seconds in (("a", 0.1), ("b", 0.25), ("c", 0.1), ("d", 0.26)):
    soundfile.write(tmp_path / f"{name}.wav", tone(3, seconds), RATE, subtype="FLOAT")
  return tmp_path


def opened(folder, **changes):
  cfg = DataConfig(source=(str(folder),), crop_seconds=0.1, workers=2, **changes)
  return open_dataset(cfg, part="all")


def heard(dataset, size):
  with evaluation_batches(dataset, size) as steps:
    return list(steps)


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_pieces_keep_the_remainder(folder, cache):
  found = opened(folder, crop="pieces", cache=cache)
  rows = heard(found, 8)[0]
  assert rows["id"].tolist() == [
    "a.wav",
    "b.wav",
    "b.wav#1",
    "b.wav#2",
    "c.wav",
    "d.wav",
    "d.wav#1",
    "d.wav#2",
  ]
  assert rows["valid"].tolist() == [1600, 1600, 1600, 800, 1600, 1600, 1600, 960]
  wave, _ = soundfile.read(folder / "d.wav", dtype="float32")
  joined = np.concatenate(list(rows["wave"][5:8]))
  np.testing.assert_array_equal(joined[: len(wave)], wave)
  assert not joined[len(wave) :].any()
  assert len(opened(folder, crop="sequential")) == 6


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_whole_recordings_are_batched_by_length(folder, cache):
  found = opened(folder, crop="whole", cache=cache)
  rows = heard(found, 2)
  assert [r["wave"].shape for r in rows] == [(2, 1600), (2, 4000), (2, 4160)]
  assert [r["id"].tolist() for r in rows] == [["a.wav", "c.wav"], ["b.wav", ""], ["d.wav", ""]]
  assert rows[1]["mask"].tolist() == [True, False]
  for row, name in zip(rows[1:], ("b", "d"), strict=True):
    wave, _ = soundfile.read(folder / f"{name}.wav", dtype="float32")
    np.testing.assert_array_equal(row["wave"][0], wave)
  parts = []
  for host in range(2):
    with evaluation_batches(found, 2, host_index=host, host_count=2) as steps:
      parts.append([str(r["id"][0]) for r in steps])
  assert parts == [["a.wav", "b.wav", "d.wav"], ["c.wav", "", ""]]


def test_a_grid_bounds_how_many_lengths_there_are(folder):
  found = opened(folder, crop="whole", grid_seconds=0.2)
  rows = heard(found, 1)
  assert [r["wave"].shape[1] for r in rows] == [3200, 3200, 6400, 6400]
  assert rows[2]["valid"].tolist() == [4000]
  assert not rows[2]["wave"][0, 4000:].any()
  cfg = dataclasses.replace(found.cfg, grid_seconds=0.0)
  # Rounded up where rates differ, so that nothing is cut off.
  assert lengths(np.array([441, 442]), np.array([44_100, 44_100]), cfg).tolist() == [160, 161]


def test_recordings_that_are_too_short_to_be_heard_are_lengthened(folder):
  """Before the grid, which may lengthen them further; the others stay as they are."""
  found = opened(folder, crop="whole")
  found.least_samples = 3000
  rows = heard(found, 2)
  assert [r["wave"].shape for r in rows] == [(2, 3000), (2, 4000), (2, 4160)]
  assert rows[0]["valid"].tolist() == [1600, 1600]
  assert not rows[0]["wave"][:, 1600:].any()
  found = opened(folder, crop="whole", grid_seconds=0.25)
  found.least_samples = 4001
  assert [r["wave"].shape[1] for r in heard(found, 4)] == [8000]


def test_nothing_is_trained_on_whole_recordings(folder):
  with pytest.raises(DataError, match="'whole' is for evaluation; train on 'pieces'"):
    batches(opened(folder, crop="whole"), batch_size=2, seed=0)
  with pytest.raises(DataError, match=r"data\.grid_seconds is -1"):
    opened(folder, grid_seconds=-1.0)
