"""A reading thread that fails or never comes back: noticed, named, and never passed over."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipelines import DataConfig, DataError, batches, decode, evaluation_batches, open_dataset
from pipelines.crew import Stalled
from tests.faults.processes import ROOT
from tests.pipelines.conftest import index_cache, library

__all__ = ["index_cache", "library"]
pytestmark = [pytest.mark.faults, pytest.mark.fault(11)]
LIMIT = 1.0


@pytest.fixture(params=["stream", "memory"])
def dataset(library, request):
  folder = library("set", 12)
  cfg = DataConfig(
    source=(str(folder),), crop_seconds=0.05, workers=2, stall_seconds=LIMIT, max_bad_share=0.3
  )
  opened = open_dataset(cfg, "all")
  if request.param == "memory":  # the engine without TensorFlow
    for source in opened.sources:
      source.in_memory = True
  return opened


def ids(dataset, steps=30, start=0):
  with batches(dataset, batch_size=4, seed=1, start_step=start, steps=steps) as stream:
    return [batch["id"].tolist() for batch in stream]


def at_file(monkeypatch, name, happens):
  """Has something happen whenever a file of this name is opened for reading."""
  real = decode.read_span

  def read_span(payload, *args):
    if str(payload).endswith(name):
      happens()
    return real(payload, *args)

  monkeypatch.setattr(decode, "read_span", read_span)


def test_a_hung_read_stops_the_run_and_names_the_file(dataset, monkeypatch, caplog):
  whole = ids(dataset)
  never = threading.Event()
  at_file(monkeypatch, "007.flac", never.wait)
  first = next(i for i, step in enumerate(whole) if any("007" in name for name in step))
  seen, began = [], time.monotonic()
  with (
    batches(dataset, batch_size=4, seed=1, steps=30) as stream,
    pytest.raises(Stalled, match=r"reading \S*007\.flac has not ended after 1 s; .*stall_seconds"),
  ):
    seen += [batch["id"].tolist() for batch in stream]
  assert time.monotonic() - began < LIMIT + 20
  assert len(seen) <= first
  warnings = [r.getMessage() for r in caplog.records if "waiting for" in r.getMessage()]
  assert any("007.flac" in text for text in warnings)
  # The mount is back, and the run goes on where it stopped as if nothing had been.
  never.set()
  assert ids(dataset, 30 - first, first) == whole[first:]


def test_evaluation_stops_too(dataset, monkeypatch):
  never = threading.Event()
  at_file(monkeypatch, "003.flac", never.wait)
  with pytest.raises(Stalled, match=r"003\.flac"):
    list(evaluation_batches(dataset, 4))
  never.set()


def test_slow_reads_change_nothing(dataset, monkeypatch, caplog):
  whole = ids(dataset)
  at_file(monkeypatch, "005.flac", lambda: time.sleep(0.3 * LIMIT))
  assert ids(dataset) == whole
  assert any("005.flac" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), SystemExit(3), KeyboardInterrupt()])
def test_a_reader_that_dies_is_heard(dataset, monkeypatch, error):
  def die():
    raise error

  at_file(monkeypatch, "002.flac", die)
  with pytest.raises(type(error)):
    ids(dataset)


def test_threads_end_with_their_iterator(dataset):
  ids(dataset, 3)
  before = threading.active_count()
  for _ in range(5):
    ids(dataset, 3)
  for _ in range(100):
    if threading.active_count() <= before:
      return
    time.sleep(0.05)
  raise AssertionError([t.name for t in threading.enumerate()])


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to a device"])
def test_what_is_no_file_is_refused_at_indexing(library, kind):
  folder = library("set", 5)
  odd = folder / "odd.wav"
  if kind == "pipe":
    os.mkfifo(odd)
  elif kind == "socket":
    import socket

    listener = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(folder)  # a socket's path may be a hundred characters long
    listener.bind("odd.wav")
    os.chdir(here)
  elif kind == "device":
    try:
      os.mknod(odd, 0o20666, os.makedev(1, 5))
    except PermissionError:
      pytest.skip("making a device needs root")
  else:
    odd.symlink_to("/dev/zero")
  cfg = DataConfig(source=(str(folder),), crop_seconds=0.05, max_bad_share=0.3, stall_seconds=30.0)
  dataset = open_dataset(cfg, "all")
  assert dataset.skipped == [("odd.wav", "is no regular file")]
  with pytest.raises(DataError, match=r"1 of 6 recordings .*odd\.wav: is no regular file"):
    open_dataset(DataConfig(source=(str(folder),), max_bad_share=0.0))


def test_a_file_that_becomes_a_pipe_is_unusable(library):
  folder = library("set", 8)
  cfg = DataConfig(source=(str(folder),), crop_seconds=0.05, max_bad_share=0.3, stall_seconds=30.0)
  dataset = open_dataset(cfg, "all")
  (folder / "004.flac").unlink()
  os.mkfifo(folder / "004.flac")
  with batches(dataset, batch_size=4, seed=0, steps=8) as stream:
    assert all("004.flac" not in batch["id"] for batch in stream)
    assert stream.bad.names == (("004.flac", "is a pipe, no regular file"),)


def test_pipes_in_place_of_shards_and_tables(tmp_path):
  for name in ("x.tar", "x.tfrecord", "x.jsonl"):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is a pipe, no regular file"):
      open_dataset(DataConfig(source=(str(tmp_path / name),), stall_seconds=30.0))


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_a_hang_while_indexing_or_decoding_all(library, monkeypatch, cache):
  folder = library("set", 6)
  never = threading.Event()
  real = decode.header if cache == "none" else decode.read_span

  def hang(payload, *args):
    if str(payload).endswith("001.flac"):
      never.wait()
    return real(payload, *args)

  monkeypatch.setattr(decode, real.__name__, hang)
  cfg = DataConfig(source=(str(folder),), crop_seconds=0.05, cache=cache, stall_seconds=LIMIT)
  with pytest.raises(Stalled, match=r"reading \S*001\.flac has not ended after 1 s"):
    batches(open_dataset(cfg, "all"), batch_size=2, seed=0)
  never.set()


HANG = """
import sys, time
from pipelines import decode
real = decode.read_span
def read_span(payload, *args):
  if str(payload).endswith("003.flac"):
    time.sleep(10_000)
  return real(payload, *args)
decode.read_span = read_span
from experiments.training import cli
from pipelines import DataConfig, batches, open_dataset
def main(cfg):
  for batch in batches(open_dataset(cfg, "all"), batch_size=4, seed=0, steps=30):
    print(batch["id"].tolist(), flush=True)
cli.run_main(main, {"x": DataConfig(crop_seconds=0.05, workers=2)}, prog="x", default="x")
"""


def test_a_process_ends_in_one_line_although_a_thread_hangs(library):
  folder = library("set", 8)
  done = subprocess.run(
    [sys.executable, "-c", HANG, "--source", str(folder), "--stall_seconds", "2"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  lines = done.stderr.splitlines()
  assert done.returncode == 2, lines
  assert "003.flac has not ended after 2 s" in lines[-1]
  assert not any("Traceback" in line for line in lines)


def test_a_process_that_was_stopped_goes_on(library):
  # As a suspended virtual machine or a debugger does: nobody was at fault, all goes on after it.
  folder = library("set", 8)
  script = HANG.replace("10_000", "0.01")
  flags = ["--source", str(folder), "--stall_seconds", "30"]
  command = [sys.executable, "-c", script, *flags]
  pipe = subprocess.PIPE
  process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
  first = process.stdout.readline()
  process.send_signal(signal.SIGSTOP)
  time.sleep(1)
  process.send_signal(signal.SIGCONT)
  rest, _ = process.communicate(timeout=120)
  assert process.returncode == 0
  assert len([first, *rest.splitlines()]) == 30


def test_a_wrong_limit(unchecked):
  for value in (-1.0, float("nan")):
    with pytest.raises(DataError, match="stall_seconds"):
      DataConfig(stall_seconds=value)
