"""Signals that reach a run: what is saved, and what goes on."""

import os
import signal
import threading

import jax
import pytest

from experiments.training import loop
from experiments.training.loop import train
from experiments.training.run import Interrupted
from tests.experiments.training.loop_runs import (
  clips,
  compiled_once,  # noqa: F401
  make_run,
  same_bits,
  table,
  with_cfg,
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_signal_ends_the_run_after_saving_the_step_under_way(tmp_path, number, at):
  def make(step):
    if step == at:
      os.kill(os.getpid(), number)
    return clips(step)

  before = signal.getsignal(number)
  with pytest.raises(Interrupted, match=rf"stopped by {number.name} after step {at + 1};") as e:
    train(make_run(tmp_path, make=make))
  assert e.value.signal_number == number
  assert signal.getsignal(number) is before
  assert (tmp_path / "checkpoints" / str(at + 1)).is_dir()
  resumed = train(make_run(tmp_path))
  assert resumed.start_step == at + 1
  unbroken = train(make_run(tmp_path / "unbroken"))
  assert same_bits(resumed.state, jax.device_get(unbroken.state)) == []
  losses = {key: row["loss"] for key, row in table(tmp_path).items()}
  assert losses == {key: row["loss"] for key, row in table(tmp_path / "unbroken").items()}
  assert len(losses) == 6


def test_a_second_interrupt_is_obeyed_at_once():
  # Sent by the thread that takes them: from another one the loop may be done before the second.
  with loop._signals() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.number == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_was_ignored_stays_so():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with loop._signals() as stop:
      os.kill(os.getpid(), signal.SIGINT)
      assert stop.number is None
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGINT, before)


def test_it_runs_in_a_thread_that_cannot_take_signals(tmp_path):
  outcomes = []
  run = make_run(tmp_path, with_cfg(steps=2))
  thread = threading.Thread(target=lambda: outcomes.append(train(run)))
  thread.start()
  thread.join()
  assert int(outcomes[0].state.step) == 2
