"""A soak ends when its watcher fails, and when the run does."""

import os
import signal
import threading
import time

import pytest

from experiments import soak
from experiments.training import loop
from experiments.training.errors import RunError
from experiments.training.metrics import FILE

SECONDS = 20.0  # a run that nobody ends


@pytest.fixture
def cfg(tmp_path):
  return soak.SoakConfig(
    workdir=str(tmp_path), source=("synthetic",), minutes=0.01, sample_seconds=0.005
  )


@pytest.fixture
def strays():
  """Signals that nobody took; without this they would end the tests."""
  found = []
  before = signal.signal(signal.SIGTERM, lambda number, frame: found.append(number))
  mine = signal.getsignal(signal.SIGTERM)
  yield found
  left = signal.getsignal(signal.SIGTERM)
  signal.signal(signal.SIGTERM, before)
  assert left is mine, "the handler of before was not put back"


def as_run(monkeypatch, run):
  """Puts `run(config)` in the place of the training."""
  monkeypatch.setattr(soak.pretrain, "main", run)


def begin(config):
  """Writes the first metrics, as a run does when it is under way."""
  os.makedirs(config.workdir)
  with open(f"{config.workdir}/{FILE}", "w", encoding="utf-8") as file:
    file.write("{}\n")


def training(config) -> int:
  """Goes on until it is stopped, as the loop does."""
  begin(config)
  until = time.monotonic() + SECONDS
  with loop._signals() as stop:
    while stop.number is None and time.monotonic() < until:
      time.sleep(0.01)
  return 0 if stop.number is None else 128 + stop.number


def test_a_watcher_that_fails_ends_the_run(cfg, monkeypatch, strays):
  def fail(seconds):
    raise FileNotFoundError("/proc/self/statm")

  monkeypatch.setattr(soak, "take_sample", fail)
  as_run(monkeypatch, training)
  began = time.monotonic()
  with pytest.raises(RunError, match=r"could not be watched: FileNotFoundError.*statm"):
    soak.main(cfg)
  assert time.monotonic() - began < SECONDS / 2
  assert not strays


def test_a_watcher_that_fails_before_the_run_takes_signals(cfg, monkeypatch, strays):
  def starting(config):
    time.sleep(SECONDS)
    return 0

  monkeypatch.setattr(soak.Watcher, "_sample", lambda self: 1 / 0, raising=False)
  as_run(monkeypatch, starting)
  began = time.monotonic()
  with pytest.raises(RunError, match="could not be watched: ZeroDivisionError"):
    soak.main(cfg)
  assert time.monotonic() - began < SECONDS / 2
  assert not strays


def test_a_run_that_ends_as_its_time_is_up(cfg, monkeypatch, strays):
  up, real = threading.Event(), os.kill

  def kill(process, number):
    up.set()
    time.sleep(0.2)  # meanwhile the run comes to its end
    real(process, number)

  def ending(config):
    begin(config)
    assert up.wait(SECONDS)
    return 3

  monkeypatch.setattr(soak.os, "kill", kill)
  as_run(monkeypatch, ending)
  with pytest.raises(RunError, match="ended by itself with exit code 3"):
    soak.main(cfg)
  assert not strays


def test_a_signal_of_someone_else_counts(cfg, monkeypatch, strays):
  def starting(config):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)
    return 4

  as_run(monkeypatch, starting)
  with pytest.raises(RunError, match="exit code 4"):
    soak.main(cfg)
  assert strays == [signal.SIGTERM]


def test_a_watcher_that_fails_as_the_run_ends(cfg, monkeypatch, strays):
  failed, real = threading.Event(), os.kill

  def kill(process, number):
    failed.set()
    time.sleep(0.2)  # meanwhile the run comes to its end
    real(process, number)

  def ending(config):
    assert failed.wait(SECONDS)
    return 3

  monkeypatch.setattr(soak.Watcher, "_sample", lambda self: 1 / 0)
  monkeypatch.setattr(soak.os, "kill", kill)
  as_run(monkeypatch, ending)
  with pytest.raises(RunError, match="could not be watched: ZeroDivisionError"):
    soak.main(cfg)
  assert not strays  # and the handler of before is back: see there


def test_an_interrupt_as_the_run_ends_puts_the_handler_back(cfg, monkeypatch, strays):
  real = threading.Thread.join

  def join(self, timeout=None):
    real(self, timeout)
    if self.name == "soak":
      raise KeyboardInterrupt

  monkeypatch.setattr(threading.Thread, "join", join)
  as_run(monkeypatch, lambda config: 3)
  with pytest.raises(KeyboardInterrupt):
    soak.main(cfg)
  assert not strays


def test_a_signal_of_someone_else_during_the_last_save_counts(cfg, monkeypatch, strays):
  def saving(config):
    with loop._signals() as stop:
      begin(config)
      until = time.monotonic() + SECONDS
      while stop.number is None and time.monotonic() < until:
        time.sleep(0.01)
      assert stop.number == signal.SIGTERM  # the watcher's own
      time.sleep(0.1)
      os.kill(os.getpid(), signal.SIGTERM)  # the scheduler's, while the run saves
      time.sleep(0.05)
    return 4

  as_run(monkeypatch, saving)
  with pytest.raises(RunError, match="exit code 4"):
    soak.main(cfg)
  assert strays == [signal.SIGTERM]
