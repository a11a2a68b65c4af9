"""What never ends stops the run, however many threads it takes; what goes on slowly does not."""

import threading
import time

import numpy as np
import pytest
import soundfile

from pipelines import DataConfig, batches, decode, open_dataset
from pipelines.crew import Stalled
from pipelines.sources import open_source, tar_members
from pipelines.sources.shard import ShardSource
from tests.pipelines.conftest import tone
from tests.pipelines.test_shard_sources import write_tar

LIMIT = 0.5  # s; loaded machines are late by less
PIECES = 20  # of LIMIT / 10 each: twice the limit in all


def ends(work, seconds: float = 30.0):
  """What `work` raises or returns; fails where it goes on for ever."""
  found: list = []

  def run():
    try:
      found.append(work())
    except Exception as error:
      found.append(error)

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  thread.join(seconds)
  assert found, f"still at it after {seconds:g} s"
  return found[0]


@pytest.mark.parametrize("engine", ["stream", "memory"])
def test_a_run_stops_when_every_thread_hangs(library, monkeypatch, engine):
  if engine == "stream":
    pytest.importorskip("tensorflow")
  cfg = DataConfig(
    source=(str(library("set", 40)),), crop_seconds=0.05, workers=2, stall_seconds=LIMIT
  )
  dataset = open_dataset(cfg, "all")
  for source in dataset.sources:
    source.in_memory = engine == "memory"
  never = threading.Event()
  monkeypatch.setattr(decode, "read_span", lambda *args: never.wait())
  with batches(dataset, batch_size=40, seed=0) as stream:  # five chunks for two threads
    error = ends(lambda: next(stream))
  never.set()
  assert isinstance(error, Stalled)
  assert "flac has not ended after 0.5 s" in str(error)


def slow_rows(path, size):
  for number in range(PIECES):
    time.sleep(LIMIT / 10)
    yield f"{number}", 100, 16_000, 0, size, "", ""


def test_a_shard_that_takes_long_in_all_is_no_stall(tmp_path):
  (tmp_path / "x.bin").write_bytes(b"x")
  source = ShardSource("x", [str(tmp_path / "x.bin")], DataConfig(stall_seconds=LIMIT), slow_rows)
  assert len(source.ids) == PIECES


def test_a_shard_that_hangs_between_two_rows_is_one(tmp_path):
  never = threading.Event()

  def rows(path, size):
    yield "0", 100, 16_000, 0, size, "", ""
    never.wait()

  (tmp_path / "x.bin").write_bytes(b"x")
  with pytest.raises(Stalled, match=r"reading \S*x\.bin has not ended after 0\.5 s"):
    ShardSource("x", [str(tmp_path / "x.bin")], DataConfig(stall_seconds=LIMIT), rows)
  never.set()


def test_a_tar_whose_members_are_slow_to_list_is_no_stall(tmp_path, monkeypatch):
  soundfile.write(tmp_path / "a.wav", tone(0, 0.1), 16_000)
  notes = {f"{number}.txt": b"x" for number in range(PIECES)}
  write_tar(tmp_path / "x.tar", notes | {"a.wav": (tmp_path / "a.wav").read_bytes()})
  real = tar_members._read

  def slow(*args):
    time.sleep(LIMIT / 10)
    return real(*args)

  monkeypatch.setattr(tar_members, "_read", slow)
  source = open_source(str(tmp_path / "x.tar"), DataConfig(stall_seconds=LIMIT))
  assert list(source.ids) == ["a"]


def test_a_recording_that_takes_long_to_decode_is_no_stall(tmp_path, monkeypatch):
  frames = 16_000
  (tmp_path / "set").mkdir()
  soundfile.write(tmp_path / "set" / "a.wav", tone(0, 1.0), 16_000)
  real = soundfile.SoundFile.read

  def slow(self, *args, out, **kwargs):
    time.sleep(2 * LIMIT * len(out) / frames)
    return real(self, *args, out=out, **kwargs)

  monkeypatch.setattr(soundfile.SoundFile, "read", slow)
  monkeypatch.setattr(decode, "_BLOCK_FRAMES", frames // PIECES, raising=False)
  cfg = DataConfig(
    source=(str(tmp_path / "set"),), crop_seconds=1.0, cache="memory", stall_seconds=LIMIT
  )
  with batches(open_dataset(cfg, "all"), batch_size=1, seed=0) as stream:
    assert np.allclose(next(stream)["wave"][0], tone(0, 1.0)[:, 0], atol=1e-4)


@pytest.mark.parametrize("kind", [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_reading_in_blocks_changes_nothing(tmp_path, monkeypatch, kind):
  path = str(tmp_path / "a")
  noise = np.random.default_rng(0).normal(0, 0.1, 50_000)
  soundfile.write(path, noise, 16_000, format=kind[0], subtype=kind[1])
  whole, _ = decode.read_span(path, 1000, 45_000)
  monkeypatch.setattr(decode, "_BLOCK_FRAMES", 7001, raising=False)
  parts, _ = decode.read_span(path, 1000, 45_000)
  assert np.array_equal(whole, parts)
