"""Early stopping and the best states, on a task whose validations say what a table says."""

import functools
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training import loop, selection
from experiments.training.errors import RunError, UsageError
from experiments.training.loop import train
from experiments.training.run import Interrupted, LoopConfig
from experiments.training.selection import (
  CHECKS,
  FOLDER,
  Check,
  SelectConfig,
  Selection,
  due_steps,
  kept_steps,
  mean_state,
  ranked,
  read_checks,
  read_state,
  without_gain,
)
from experiments.training.step import compile_eval_step, compile_train_step
from experiments.training.task import Task
from tests.experiments.tiny_pretrain import quick_compiles
from tests.experiments.training import toy
from tests.experiments.training.loop_runs import clips, held_out, make_run, wave_loss

# Losses after the steps 1, 2, ...: the best are those of the steps 3, 5, 2; none after 5 is better.
LOSSES = jnp.asarray([4.0, 2.0, 1.0, math.nan, 1.5, 2.0, 3.0, 9.0, 0.1])
SELECT = SelectConfig(metric="loss", patience=4, average=2)
CFG = LoopConfig(
  steps=9, batch_size=8, seed=0, log_every=1, validate_every=1, save_every=3, keep=2, keep_best=0
)


def _loss(params, model_state, batch, key, train):
  value, (model_state, metrics) = wave_loss(params, model_state, batch, key, train, noise=0.1)
  return (value if train else batch["figure"]), (model_state, metrics)


TASK = Task(toy.init, _loss, toy.PARAM_AXES, (("figure", lambda step: LOSSES[step]),))


@pytest.fixture(autouse=True, scope="module")
def _compiled_once():
  with quick_compiles(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "compile_train_step", functools.cache(compile_train_step))
    patch.setattr(loop, "compile_eval_step", functools.cache(compile_eval_step))
    yield


def selecting(workdir, select=SELECT, make=clips):
  return make_run(workdir, CFG, make, TASK, validation=held_out(8, 8), select=select)


def files(workdir):
  return {p.name: p.read_bytes() for p in (workdir / FOLDER).iterdir()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  return workdir, train(selecting(workdir))


def test_the_order_of_checks():
  checks = [Check(step, figure) for step, figure in enumerate([0.2, 0.5, math.nan, 0.5, 0.1], 1)]
  assert [c.step for c in ranked(checks, "mAP")] == [2, 4, 1, 5]
  assert [c.step for c in ranked(checks, "loss")] == [5, 1, 2, 4]
  assert [c.step for c in ranked(checks, "error_rate")] == [5, 1, 2, 4]
  assert without_gain(checks, "mAP") == 3  # an equal figure is no gain
  assert without_gain(checks, "loss") == 0
  assert without_gain(checks[2:3], "loss") == 1
  assert without_gain([], "loss") == 0
  assert kept_steps(checks, "loss", 2, ()) == {5, 1}
  assert kept_steps(checks, "loss", 2, (2, 4)) == {5, 1, 2}
  assert kept_steps(checks, "loss", 0, (2,)) == set()
  assert due_steps(2, 7, 6) == [2, 4, 6]
  assert due_steps(2, 7, 7) == [2, 4, 6, 7]
  assert due_steps(0, 7, 6) == []
  for wrong in ({"patience": -1}, {"average": -1}, {"metric": ""}):
    with pytest.raises(UsageError, match=r"--select\."):
      SelectConfig(**wrong)


def test_a_mean_has_batch_statistics_too_and_keeps_types():
  states = [
    {"params/w": np.float32([x, 1]), "model_state/mean": np.float32([2 * x]), "n": np.int32(7 + x)}
    for x in (1, 2, 6)
  ]
  mean = mean_state(states)
  np.testing.assert_array_equal(mean["params/w"], np.float32([3, 1]))
  np.testing.assert_array_equal(mean["model_state/mean"], np.float32([6]))
  assert mean["n"] == 8
  assert mean["params/w"].dtype == np.float32


def test_a_run_ends_when_nothing_gets_better(unbroken):
  workdir, outcome = unbroken
  # Step 3 is the best: patience of 4 ends the run after 7, of which the last is saved.
  assert int(outcome.state.step) == 7
  assert [check.step for check in outcome.best] == [3, 5]
  assert sorted(files(workdir)) == ["3.safetensors", "5.safetensors", CHECKS]
  figures = [check.figure for check in read_checks(workdir / FOLDER)]
  np.testing.assert_array_equal(figures, np.asarray(LOSSES[:7]))
  assert (workdir / "checkpoints" / "7").is_dir()
  # Once more finds a finished run, which trains no more.
  again = train(selecting(workdir))
  assert (again.start_step, [check.step for check in again.best]) == (7, [3, 5])


def test_kept_states_are_those_of_their_steps(unbroken, tmp_path):
  """The variables after three steps, batch statistics among them."""
  workdir, _ = unbroken
  short = make_run(tmp_path, CFG, task=TASK)

  def stopping(step):
    if step == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return clips(step)

  with pytest.raises(Interrupted) as error:
    train(selecting(tmp_path, make=stopping))
  assert error.value.step == 3
  seen = []
  train(short, lambda state, new: seen.append(jax.device_get(state)))
  kept = read_state(workdir / FOLDER, 3)
  np.testing.assert_array_equal(kept["params/head/kernel"], seen[0].params["head"]["kernel"])
  np.testing.assert_array_equal(kept["model_state/norm/mean"], seen[0].model_state["norm"]["mean"])


class Killed(BaseException):
  """Ends a process without a chance to save anything."""


@pytest.mark.parametrize(
  ("how", "at"), [("killed", 2), ("killed", 4), ("killed", 6), ("stopped", 1), ("stopped", 6)]
)
def test_a_broken_run_selects_what_an_unbroken_one_does(unbroken, tmp_path, how, at):
  """Killed, it goes back to the start or to checkpoint 3 or 6; stopped, it saves at once."""

  def breaking(step):
    if step == at and not seen:
      seen.append(step)
      if how == "killed":
        raise Killed
      os.kill(os.getpid(), signal.SIGTERM)
    return clips(step)

  seen: list[int] = []
  run = selecting(tmp_path, make=breaking)
  with pytest.raises((Killed, Interrupted)):
    train(run)
  outcome = train(run)
  workdir, want = unbroken
  assert int(outcome.state.step) == int(want.state.step)
  assert outcome.best == want.best
  assert files(tmp_path) == files(workdir)


def test_a_state_stays_while_a_checkpoint_may_ask_for_it(tmp_path):
  """Step 1 is out-ranked by 2 and 3; from checkpoint 0 on nothing needs it."""
  names = []

  def noting(step):
    names.append(sorted(p.stem for p in (tmp_path / FOLDER).glob("*.safetensors")))
    return clips(step)

  train(selecting(tmp_path, make=noting))
  # Before the steps 3 to 6 (from 0): no checkpoint is complete before that of step 3.
  assert names[3] == ["2", "3"]
  assert set(names[5]) == {"2", "3", "5"}  # 2 is one of the two best as seen from checkpoint 3


def test_what_is_lost_is_told(unbroken, tmp_path):
  workdir, _ = unbroken
  path = workdir / FOLDER / "3.safetensors"
  whole = path.read_bytes()
  path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
  with pytest.raises(RunError, match=r"3\.safetensors: absent or damaged \(its checksum differs"):
    read_state(workdir / FOLDER, 3)
  path.write_bytes(whole)
  checks = workdir / FOLDER / CHECKS
  text = checks.read_text()
  checks.unlink()
  with pytest.raises(RunError, match=r"checks\.json: absent or damaged"):
    train(selecting(workdir))
  checks.write_text(text.replace('"step": 2', '"step": 20'))
  with pytest.raises(RunError, match="lacks some of the 7 validations up to step 7"):
    train(selecting(workdir))
  checks.write_text(text)
  with pytest.raises(UsageError, match="--select.metric mAP: the validation has "):
    train(selecting(tmp_path, SelectConfig("mAP", patience=1)))


def test_checks_that_the_disk_did_not_take_are_written_later(tmp_path, monkeypatch):
  """And what a run does not know, or does not select by, it leaves alone."""
  (tmp_path / "mine.safetensors").write_bytes(b"")
  chosen = Selection(tmp_path, SELECT, 0, ())
  with monkeypatch.context() as patch:
    patch.setattr(selection, "_write_state", _full)
    for step in (1, 2):
      assert chosen.note(step, {"loss": 1.0 / step})
      with pytest.raises(OSError, match="full"):
        chosen.write({"x": np.ones(2)}, ())
      assert [check.step for check in read_checks(tmp_path)] == list(range(1, step + 1))
  assert chosen.behind
  chosen.write(None, ())
  assert not chosen.behind
  (tmp_path / "7.safetensors").write_bytes(b"")
  Selection(tmp_path, SelectConfig(), 0, ()).sweep(())
  assert (tmp_path / "7.safetensors").exists()
  chosen.sweep(())
  assert [path.name for path in tmp_path.glob("*.safetensors")] == ["mine.safetensors"]


def _full(*_):
  raise OSError("the disk is full")
