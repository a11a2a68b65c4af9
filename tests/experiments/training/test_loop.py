"""The loop on a task that compiles at once: intervals, validation, limits, signals, bad audio."""

import dataclasses
import errno
import functools
import json
import os
import signal
import threading
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
from experiments.training.metrics import read_metrics
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.paths import leaves_by_path
from experiments.training.run import Interrupted, LoopConfig, Run
from experiments.training.state import init_state
from experiments.training.step import compile_eval_step, compile_train_step
from experiments.training.task import Task
from experiments.training.unusable import Unusable
from experiments.training.whole_file import WholeFile
from pipelines.ledger import Ledger
from tests.experiments.tiny_pretrain import quick_compiles
from tests.experiments.training import toy

CFG = LoopConfig(
  steps=6, batch_size=8, seed=0, log_every=1, validate_every=0, save_every=2, keep=9, keep_best=0
)
OPTIMISER = make_optimiser(OptimConfig(warmup_steps=0, schedule="constant", peak_lr=1e-2), 6)


def _loss(params, model_state, batch, key, train, *, noise):
  """The toy's loss on the fields that the loop passes on."""
  wave = batch["wave"]
  target = jnp.tanh(wave[:, : toy.H] - wave[:, toy.H :])
  filled = {**batch, "target": target}
  return toy.loss(params, model_state, filled, key, train, noise=noise)


TASK = Task(toy.init, functools.partial(_loss, noise=0.1), toy.PARAM_AXES)
QUIET = Task(toy.init, functools.partial(_loss, noise=0.0), toy.PARAM_AXES)


@pytest.fixture(autouse=True, scope="module")
def _compiled_once():
  first = functools.cache(lambda *a: jax.device_get(init_state(*a)))
  with quick_compiles(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "init_state", lambda *a: jax.tree.map(jnp.array, first(*a)))
    patch.setattr(loop, "compile_train_step", functools.cache(compile_train_step))
    patch.setattr(loop, "compile_eval_step", functools.cache(compile_eval_step))
    yield


class Batches:
  """Host batches from a pure function of the step."""

  def __init__(self, make, steps):
    self.steps, self.make = iter(steps), make
    self.wait_seconds, self.closed = 0.0, False

  def __iter__(self):
    return self

  def __next__(self):
    return self.make(next(self.steps))

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.closed = True


def clips(step, rows=8):
  wave = toy.batch(step, rows)["wave"]
  return {"wave": wave, "id": np.array([f"{step}/{i}" for i in range(rows)])}


def make_run(workdir, cfg=CFG, make=clips, task=TASK, optimiser=OPTIMISER, **changes):
  def batches(start, steps, host, hosts):
    assert (host, hosts) == (0, 1)
    return Batches(make, range(start, start + steps))

  run = Run(
    task=task,
    optimiser=optimiser,
    mesh=make_mesh(devices=jax.devices()[:1]),
    cfg=cfg,
    workdir=workdir,
    batches=batches,
    validation=None,
    record={"loop": dataclasses.asdict(cfg)},
    data="toy",
    may_differ=("config.loop",),
    clip_seconds=1.0,
    unusable=Unusable(workdir, Ledger()),
  )
  return dataclasses.replace(run, **changes)


def with_cfg(**changes):
  return dataclasses.replace(CFG, **changes)


def table(workdir):
  return {(r["step"], r["part"]): r for r in read_metrics(workdir / "metrics.jsonl")}


def held_out(total, size):
  """The first `total` clips in padded batches of `size`; the padding is loud."""
  pool = np.concatenate([toy.batch(100 + i)["wave"] for i in range(3)])[:total]

  def make(index):
    wave = np.full((size, toy.D), 1e3, np.float32)
    part = pool[index * size : (index + 1) * size]
    wave[: len(part)] = part
    return {"wave": wave, "mask": np.arange(size) < len(part)}

  return lambda host, hosts: Batches(make, range(-(-total // size)))


def same_bits(a, b):
  b = leaves_by_path(b)
  return [p for p, x in leaves_by_path(a).items() if np.asarray(x).tobytes() != b[p].tobytes()]


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


def listed(workdir):
  rows = json.loads((workdir / "unusable.json").read_text())
  return [(row["recording"], row["reason"]) for row in rows]


def finding(workdir, found, **changes):
  """A run whose training meets `found[step]` (a name) at a step, and its validation `held.wav`."""
  ledger = Ledger(log=False)

  def make(step):
    if step in found:
      ledger.add(found[step], "empty")
    return clips(step)

  def validation(host, hosts):
    ledger.add("held.wav", "absent")
    return held_out(8, 8)(host, hosts)

  unusable = Unusable(workdir, ledger, [("index.wav", "no samples")])
  return make_run(workdir, make=make, validation=validation, unusable=unusable, **changes)


ALL = [("index.wav", "no samples"), ("a.wav", "empty"), ("held.wav", "absent"), ("b.wav", "empty")]


def named(capsys):
  lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("unusable")]
  assert all(x.endswith("; left out") for x in lines)
  return [x.split()[2].rstrip(":") for x in lines]


def test_unusable_recordings_are_named_once_and_listed(tmp_path, capsys):
  cfg = with_cfg(validate_every=3)
  found = {1: "a.wav", 4: "b.wav", 5: "a.wav"}
  outcome = train(finding(tmp_path, found, cfg=cfg))
  assert named(capsys) == ["a.wav", "held.wav", "b.wav"]
  assert list(outcome.bad_recordings) == listed(tmp_path) == ALL


def test_what_was_found_unusable_survives_a_resume(tmp_path, capsys):
  cfg = with_cfg(validate_every=3)

  def stop(step):
    if step == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    return clips(step)

  run = finding(tmp_path, {1: "a.wav"}, cfg=cfg)
  batches = run.batches

  def stopping(*how):
    made = batches(*how)
    plain = made.make
    made.make = lambda step: (stop(step), plain(step))[1]
    return made

  with pytest.raises(Interrupted):
    train(dataclasses.replace(run, batches=stopping))
  assert named(capsys) == ["a.wav", "held.wav"]
  assert listed(tmp_path) == ALL[:3]
  # Met again after the resume: neither named nor counted a second time.
  outcome = train(finding(tmp_path, {4: "b.wav", 5: "a.wav"}, cfg=cfg))
  assert named(capsys) == ["b.wav"]
  assert list(outcome.bad_recordings) == listed(tmp_path) == ALL
  again = train(finding(tmp_path, {}, cfg=cfg))
  assert list(again.bad_recordings) == listed(tmp_path) == ALL
  assert named(capsys) == []


def test_a_run_that_fails_says_what_it_found_first(tmp_path, capsys):
  run = finding(tmp_path, {2: "a.wav"})
  batches = run.batches

  def failing(*how):
    made = batches(*how)
    plain = made.make
    made.make = lambda step: (plain(step), 1 // (step != 2))[0]
    return made

  with pytest.raises(ZeroDivisionError):
    train(dataclasses.replace(run, batches=failing))
  assert named(capsys) == ["a.wav"]
  assert listed(tmp_path) == ALL[:2]


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '[{"recording": "a"}]'])
def test_a_damaged_list_of_a_run_is_written_anew(tmp_path, text):
  (tmp_path / "unusable.json").write_text(text)
  unusable = Unusable(tmp_path, Ledger(), [("a", "b")])
  unusable.resume()
  unusable.write()
  assert listed(tmp_path) == [("a", "b")]


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
