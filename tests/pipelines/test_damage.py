"""Unusable audio is counted, named, replaced in the same way every time, and limited."""

import numpy as np
import pytest
import soundfile

from pipelines import DataConfig, DataError, batches, evaluation_batches, open_dataset
from pipelines.ledger import Ledger
from tests.pipelines.conftest import tone


@pytest.fixture
def damaged(library):
  """A folder of 20 good recordings, two bad at first sight and three that show it when decoded."""
  folder = library("set", 20, seconds=0.2)
  (folder / "empty.wav").touch()
  (folder / "text.wav").write_text("this is no audio at all\n" * 100)
  soundfile.write(folder / "cut.flac", np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000)
  data = (folder / "cut.flac").read_bytes()
  (folder / "cut.flac").write_bytes(data[: len(data) // 3])
  wave = tone(3, 0.4)
  wave[100] = np.nan
  soundfile.write(folder / "nan.wav", wave, 16_000, subtype="FLOAT")
  soundfile.write(folder / "gone.wav", tone(4, 0.4), 16_000)
  return folder


def _open(folder, **changes):
  cfg = DataConfig(source=(str(folder),), crop_seconds=0.1, max_bad_share=0.5, **changes)
  return open_dataset(cfg, part="all")


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_bad_audio_is_named_and_replaced_in_the_same_way(damaged, cache):
  dataset = _open(damaged, cache=cache)
  assert dataset.skipped == [
    ("empty.wav", "empty file"),
    ("text.wav", "cannot be decoded: Format not recognised"),
  ]
  (damaged / "gone.wav").unlink()

  def collect(start, hosts=1):
    streams = [
      batches(
        dataset, batch_size=8, seed=1, start_step=start, steps=40, host_index=h, host_count=hosts
      )
      for h in range(hosts)
    ]
    ids = [[i for p in parts for i in p["id"]] for parts in zip(*streams, strict=True)]
    bad = dict(pair for s in streams for pair in s.bad.names)
    return ids, bad

  ids, bad = collect(0)
  assert set(bad) == {"cut.flac", "gone.wav", "nan.wav"}
  assert bad["gone.wav"] == "absent"
  assert bad["nan.wav"].endswith(" samples are NaN or infinite")
  used = {i for step in ids for i in step}
  assert "nan.wav" not in used
  assert ("nan.wav#1" in used) == (cache == "none")  # from memory, a recording is used whole or not
  assert collect(0)[0] == ids
  assert collect(0, hosts=2)[0] == ids
  assert collect(15)[0][:25] == ids[15:]


def test_undamaged_parts_of_a_recording_are_used(damaged):
  dataset = _open(damaged)
  stream = batches(dataset, batch_size=8, seed=1, steps=60)
  ids = {i for batch in stream for i in batch["id"]}
  assert {"nan.wav#1", "nan.wav#2"} <= ids
  assert "nan.wav" not in ids
  assert {"cut.flac", "cut.flac#1"} <= ids
  assert "cut.flac#19" not in ids


def test_too_much_bad_audio_stops_the_run_in_one_line(damaged):
  cfg = DataConfig(source=(str(damaged),), crop_seconds=0.1, max_bad_share=0.05)
  with pytest.raises(DataError, match=r"2 of 25 .*max_bad_share 0.05 .*empty\.wav: empty file"):
    open_dataset(cfg)
  dataset = open_dataset(DataConfig(source=(str(damaged),), crop_seconds=0.1, max_bad_share=0.13))
  with pytest.raises(DataError, match=r"4 of 25 recordings are unusable") as caught:
    list(batches(dataset, batch_size=8, seed=1, steps=60))
  assert "\n" not in str(caught.value)


def test_share_of_nothing_allowed(library):
  folder = library("set", 5)
  (folder / "empty.wav").touch()
  with pytest.raises(DataError, match="1 of 6"):
    open_dataset(DataConfig(source=(str(folder),), max_bad_share=0.0))


def test_folder_of_bad_audio_alone(tmp_path):
  (tmp_path / "empty.wav").touch()
  with pytest.raises(DataError, match=r"no usable recording \(such as empty.wav: empty file\)"):
    open_dataset(DataConfig(source=(str(tmp_path),), max_bad_share=1.0))


def test_everything_vanishes_during_the_run(library):
  folder = library("set", 5)
  dataset = open_dataset(DataConfig(source=(str(folder),), crop_seconds=0.05, max_bad_share=1.0))
  for path in folder.iterdir():
    path.unlink()
  with pytest.raises(DataError, match="no usable substitute"):
    next(batches(dataset, batch_size=2, seed=0))


def test_file_that_changes_rate_after_indexing(library):
  folder = library("set", 5)
  cfg = DataConfig(source=(str(folder),), crop_seconds=0.05, max_bad_share=0.5, workers=1)
  dataset = open_dataset(cfg)
  soundfile.write(folder / "002.flac", tone(2, 1.0, 8000), 8000)
  stream = batches(dataset, batch_size=4, seed=0, steps=10)
  assert all("002.flac" not in batch["id"] for batch in stream)
  assert stream.bad.names[0][0] == "002.flac"
  assert "8000 Hz, the index says 16000 Hz" in stream.bad.names[0][1]


def test_each_recording_is_said_once_whoever_reads_it(damaged, caplog):
  dataset = _open(damaged)
  for _ in range(2):
    list(batches(dataset, batch_size=8, seed=1, steps=40))
    list(evaluation_batches(dataset, 8))
  said = [r.getMessage() for r in caplog.records if r.name == "pipelines"]
  assert sorted(text.split()[2].rstrip(":") for text in said) == ["cut.flac", "nan.wav"]
  assert all(text.endswith("; left out") for text in said)


def test_parts_share_a_ledger_and_its_limit(damaged, caplog):
  (damaged / "gone.wav").unlink()
  ledger = Ledger(log=False)
  ledger.know([("nan.wav", "as an earlier start found it"), ("repaired.wav", "then")])
  cfg = DataConfig(source=(str(damaged),), crop_seconds=0.1, max_bad_share=0.17, holdout=0.2)
  parts = [open_dataset(cfg, part, bad=ledger) for part in ("train", "holdout")]
  # 4 of 24 are unusable, one in each part and two in the index; 17 % allow for all four.
  for part in parts:
    list(evaluation_batches(part, 8))
  assert [name for name, _ in ledger.items()] == ["nan.wav", "repaired.wav", "cut.flac"]
  assert not [r for r in caplog.records if r.name == "pipelines"]
  ledger = Ledger(log=False)
  tight = DataConfig(**{**cfg.__dict__, "max_bad_share": 0.13})
  list(evaluation_batches(open_dataset(tight, "train", bad=ledger), 8))
  stream = evaluation_batches(open_dataset(tight, "holdout", bad=ledger), 8)
  with pytest.raises(DataError, match="4 of 24 recordings are unusable"):
    list(stream)


def test_evaluation_masks_bad_audio(damaged):
  dataset = _open(damaged)
  stream = evaluation_batches(dataset, 8)
  masked = [i for b in stream for i, m in zip(b["id"], b["mask"], strict=True) if not m and i]
  assert "nan.wav" in masked
  assert "cut.flac#19" in masked
  assert {m.split("#")[0] for m in masked} == {"nan.wav", "cut.flac"}
