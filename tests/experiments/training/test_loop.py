"""The loop on a task that compiles at once: intervals, validation, limits, failures."""

import dataclasses
import errno
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training import loop
from experiments.training.checkpoint import Checkpoints
from experiments.training.checkpoint_record import CheckpointError
from experiments.training.errors import RunError, UsageError
from experiments.training.loop import train
from experiments.training.mesh import make_mesh
from experiments.training.whole_file import WholeFile
from tests.experiments.training.loop_runs import (
  QUIET,
  Batches,
  clips,
  compiled_once,  # noqa: F401
  held_out,
  make_run,
  table,
  with_cfg,
)


def test_every_interval_is_kept_and_the_end_counts_as_each(tmp_path):
  cfg = with_cfg(steps=5, log_every=2, validate_every=3, save_every=4)
  outcome = train(make_run(tmp_path, cfg, validation=held_out(12, 8)))
  rows = table(tmp_path)
  assert [s for s, part in rows if part == "train"] == [2, 4, 5]
  assert [s for s, part in rows if part == "validation"] == [3, 5]
  saved = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
  assert saved == [4, 5]
  assert int(outcome.state.step) == 5
  assert outcome.validation_loss == rows[5, "validation"]["loss"]


def test_validation_is_the_mean_over_clips_however_they_are_cut(tmp_path):
  # 12 clips, without noise: their loss is the same in three batches, or in two with padding.
  cfg = with_cfg(steps=1, validate_every=1)
  run = make_run(tmp_path, cfg, task=QUIET, validation=held_out(12, 8))
  outcome = train(run)
  whole = {"wave": jnp.asarray(next(held_out(12, 12)(0, 1))["wave"])}
  params, state = outcome.state.params, outcome.state.model_state
  want, _ = QUIET.loss(params, state, whole, jax.random.key(0), False)
  assert outcome.validation_loss == pytest.approx(float(want), rel=1e-6)
  # A finished run is validated once more, here in other batches.
  other = dataclasses.replace(run, validation=held_out(12, 4))
  assert train(other).validation_loss == pytest.approx(outcome.validation_loss, rel=1e-6)


def test_validation_weighs_clips_with_what_they_count(tmp_path):
  cfg = with_cfg(steps=1, validate_every=1)
  valid = np.array([40, 30, 20, 50, 1, 0, 2, 0, 3, 0, 0, 1], np.int32)

  def weighed(size):
    def batches(host, hosts):
      held = held_out(12, size)(host, hosts)
      plain = held.make

      def make(index):
        part = valid[index * size : (index + 1) * size]
        return plain(index) | {"valid": np.pad(part, (0, size - len(part)))}

      held.make = make
      return held

    return batches

  run = make_run(tmp_path, cfg, task=QUIET, validation=weighed(8))
  outcome = train(run)
  whole = {k: jnp.asarray(x) for k, x in next(weighed(12)(0, 1)).items()}
  params, state = outcome.state.params, outcome.state.model_state
  want, _ = QUIET.loss(params, state, whole, jax.random.key(0), False)
  assert outcome.validation_loss == pytest.approx(float(want), rel=1e-6)
  other = dataclasses.replace(run, validation=weighed(4))
  assert train(other).validation_loss == pytest.approx(float(want), rel=1e-6)


def test_validation_on_nothing_has_no_loss(tmp_path):
  def nothing(host, hosts):
    held = held_out(8, 8)(host, hosts)
    plain = held.make
    held.make = lambda index: plain(index) | {"mask": np.zeros(8, bool)}
    return held

  outcome = train(make_run(tmp_path, with_cfg(steps=1, validate_every=1), validation=nothing))
  assert np.isnan(outcome.validation_loss)
  assert outcome.best_step is None


def test_the_state_before_the_first_step_is_handed_over_once(tmp_path):
  seen = []
  run = make_run(tmp_path, with_cfg(steps=2))
  train(run, lambda state, new: seen.append((int(state.step), new)))
  run = make_run(tmp_path, with_cfg(steps=2))
  train(run, lambda state, new: seen.append((int(state.step), new)))
  assert seen == [(0, True), (2, False)]


def broken(*steps):
  def make(step):
    batch = clips(step)
    if step in steps:
      batch["wave"][0, 0] = np.inf
    return batch

  return make


def test_a_broken_batch_is_counted_and_passed_over(tmp_path, capsys):
  outcome = train(make_run(tmp_path, make=broken(1, 2, 4)))
  assert outcome.skipped == 3
  rows = table(tmp_path)
  assert [rows[n, "train"]["skipped_in_row"] for n in range(1, 7)] == [0, 1, 2, 0, 1, 0]
  assert capsys.readouterr().err.count("not finite; the batch changed nothing") == 3


@pytest.mark.parametrize("way", ["go_on", "stop"])
def test_a_save_that_fails(tmp_path, capsys, monkeypatch, way):
  """Of six saves the second and the third fail, and so does the line of step 3."""
  save, write = Checkpoints.save, WholeFile.write
  failing = {2: True, 3: True}

  def no_room(self, state, *rest, **how):
    if failing.get(int(state.step)):
      raise CheckpointError("cannot save: no space left on the disk")
    return save(self, state, *rest, **how)

  def no_line(self, piece):
    if b'"step": 3' in piece:
      self._kept += piece
      raise OSError(errno.ENOSPC, "No space left on device")
    return write(self, piece)

  monkeypatch.setattr(Checkpoints, "save", no_room)
  monkeypatch.setattr(WholeFile, "write", no_line)
  cfg = with_cfg(save_every=1, keep=9, failed_save=way)
  if way == "stop":
    with pytest.raises(CheckpointError, match="no space left"):
      train(make_run(tmp_path, cfg))
    return
  train(make_run(tmp_path, cfg))
  assert sorted(int(p.name) for p in (tmp_path / "checkpoints").glob("?")) == [1, 4, 5, 6]
  assert {(n, "train") for n in range(1, 7)} <= table(tmp_path).keys()
  said = capsys.readouterr().err
  assert said.count("cannot save: no space left on the disk; going on") == 2
  assert said.count("metrics: no space left on the disk") == 1
  failing[6] = True  # nothing comes after the last one
  with pytest.raises(CheckpointError, match="no space left"):
    train(make_run(tmp_path / "last", cfg))


def test_a_folder_that_vanishes_ends_the_run(tmp_path):
  def gone():
    raise RunError("the folder of the run has vanished")

  with pytest.raises(RunError, match="has vanished"):
    train(make_run(tmp_path, still_there=gone))


def test_parameters_that_are_not_finite_are_never_saved(tmp_path, monkeypatch):
  """As failing memory makes them: no update can."""
  init = loop.init_state
  monkeypatch.setattr(
    loop,
    "init_state",
    lambda *a: dataclasses.replace(
      state := init(*a), params=jax.tree.map(lambda x: x * jnp.nan, state.params)
    ),
  )
  with pytest.raises(RunError, match="step 1: the parameters themselves are not finite"):
    train(make_run(tmp_path, with_cfg(save_every=1)))
  assert not list((tmp_path / "checkpoints").glob("[0-9]*"))


def test_too_many_broken_batches_end_the_run(tmp_path):
  cfg = with_cfg(max_skipped_in_row=2)
  with pytest.raises(RunError, match=r"^step 3: .*2 batches in a row;.*max_skipped_in_row\)$"):
    train(make_run(tmp_path / "row", cfg, broken(1, 2)))
  cfg = with_cfg(max_skipped=2)
  with pytest.raises(RunError, match=r"^step 5: .*2 batches of this run;.*max_skipped\)$"):
    train(make_run(tmp_path / "all", cfg, broken(1, 4)))
  # The last step is judged as well, although no other follows it.
  with pytest.raises(RunError, match=r"^step 6: "):
    train(make_run(tmp_path / "end", cfg, broken(1, 5)))
  cfg = with_cfg(max_skipped=0, max_skipped_in_row=0)
  assert train(make_run(tmp_path / "off", cfg, broken(1, 2, 3, 4))).skipped == 4


def test_waiting_for_the_first_batch_is_no_idle_time(tmp_path):
  made = []

  def slow(step):
    if step == 0:
      time.sleep(0.5)
      made[0].wait_seconds = 0.5
    return clips(step)

  def batches(start, steps, host, hosts):
    made.append(Batches(slow, range(start, start + steps)))
    return made[0]

  outcome = train(make_run(tmp_path, batches=batches))
  assert outcome.idle_share == 0


def test_batches_are_closed_when_something_fails(tmp_path):
  made = []

  def batches(start, steps, host, hosts):
    def make(step):
      raise MemoryError

    made.append(Batches(make, range(steps)))
    return made[0]

  with pytest.raises(MemoryError):
    train(make_run(tmp_path, batches=batches))
  assert made[0].closed


def test_a_batch_that_does_not_fit_the_devices_is_refused(tmp_path):
  run = make_run(tmp_path, with_cfg(batch_size=12), mesh=make_mesh())
  with pytest.raises(UsageError, match=r"batch_size 12 is not divisible by 8 devices; try 8 or 16"):
    train(run)
  assert not any(tmp_path.iterdir())
