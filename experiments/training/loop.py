"""The training loop: batches in, checkpoints and metrics out; resumes by itself and loses nothing.

    batch n (pure in seed, n) -> step -> state n+1      metrics of n are read while n+1 is running
                                           |-> every `save_every`: checkpoint, asynchronously
                                           |-> every `validate_every`: loss on held-out clips, by
                                               which a run may end early (`selection`)

The loop knows no model: it drives a `Task`. Host and device meet in `to_device` and in `Late`
alone; everything else runs under a transfer guard that makes a hidden copy fail.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from experiments.training.checkpoint import Checkpoints
from experiments.training.checkpoint_record import CheckpointError, reason_of
from experiments.training.cluster import PEER_LOST, leave
from experiments.training.errors import RunError
from experiments.training.memory import hand_back
from experiments.training.mesh import batch_hosts, batch_sharding, check_batch, on_host
from experiments.training.metrics import Late, MetricsWriter
from experiments.training.paths import leaves_by_path
from experiments.training.progress import Chrono, ProgressLine, line
from experiments.training.run import Interrupted, Outcome, Run
from experiments.training.selection import FOLDER, Selection, due_steps
from experiments.training.startup import process_seconds
from experiments.training.state import TrainState, begin_with, init_state, restore_target
from experiments.training.step import compile_eval_step, compile_train_step
from pipelines import to_device


def train(run: Run, on_start: Callable[[TrainState, bool], None] | None = None) -> Outcome:
  """Trains to the last step, from the newest sound checkpoint in the folder if there is one.

  on_start: called once with the state before the first step of this process and whether the run is
    new, e.g. to evaluate the initial encoder.

  Raises:
    RunError: loss or gradient were not finite too often.
    Interrupted: SIGTERM or Ctrl-C, after a checkpoint of the last finished step.
    UsageError: a batch that does not fit the devices, a folder with another run.
    DataError: too much damaged audio.
    CheckpointError: a checkpoint could not be written.
  """
  cfg = run.cfg
  check_batch(cfg.batch_size, run.mesh, run.optimiser.cfg.accumulate)
  with contextlib.ExitStack() as stack:
    stack.enter_context(_in_place(run))
    stack.enter_context(jax.set_mesh(run.mesh))
    checkpoints = stack.enter_context(
      Checkpoints(
        run.workdir / "checkpoints",
        config=run.record,
        seed=cfg.seed,
        data=run.data,
        keep=cfg.keep,
        keep_best=cfg.keep_best,
        may_differ=run.may_differ,
        young=run.young,
      )
    )
    state = checkpoints.restore_latest(restore_target(run.task, run.optimiser, run.mesh))
    new = state is None
    if state is None:
      state = init_state(run.task, run.optimiser, run.mesh, cfg.seed)
      if run.start is not None:
        state = begin_with(state, run.start())
    if on_start is not None:
      on_start(state, new)
    start = int(jax.device_get(state.step))
    main_process = jax.process_index() == 0
    writer = stack.enter_context(MetricsWriter(run.workdir, start_step=start, active=main_process))
    progress = ProgressLine()
    stack.callback(progress.close)
    if not new:
      run.unusable.resume()
      progress.message(f"resuming after step {start} of {cfg.steps}")
    due = due_steps(cfg.validate_every, cfg.steps, start)
    selection = Selection(run.workdir / FOLDER, run.select, start, due, main_process)
    return _Loop(run, checkpoints, writer, progress, selection, state, start).go()


@contextlib.contextmanager
def _in_place(run: Run) -> Iterator[None]:
  """Lets a folder that has vanished be told as such, whichever file was missed first."""
  try:
    yield
  except OSError:
    run.still_there()
    raise


class _Loop:
  """One process's part of a run; `go` is the loop, everything else one of its chores."""

  def __init__(
    self,
    run: Run,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    progress: ProgressLine,
    selection: Selection,
    state: TrainState,
    start: int,
  ):
    self.run, self.cfg, self.start = run, run.cfg, start
    self.checkpoints, self.writer, self.progress = checkpoints, writer, progress
    self.selection, self.saving = selection, start  # the step of the newest save, perhaps under way
    self.state, self.step = state, start
    self.late = Late()
    self.latest: dict[str, float] = {}
    self.validation: dict[str, float] = {}
    self.start_seconds = 0.0
    self.failure = ""  # what was said last of a failed save
    self.host, self.hosts = batch_hosts(run.mesh)
    self.sharding = batch_sharding(run.mesh)
    self.step_fn = compile_train_step(run.task, run.optimiser, run.mesh, run.cfg.seed)
    use_ema = bool(run.optimiser.cfg.ema)
    self.eval_fn = compile_eval_step(run.task, run.optimiser, run.mesh, run.cfg.seed, use_ema)
    self.chrono = Chrono(
      run.cfg.steps,
      clips_per_step=run.cfg.batch_size,
      seconds_per_clip=run.clip_seconds,
      start_step=start,
    )

  def go(self) -> Outcome:
    try:
      return self._go()
    except jax.errors.JaxRuntimeError as error:
      if jax.process_count() == 1:
        raise
      newest = max(self.checkpoints.steps, default="none")
      leave(
        f"{self.run.prog}: error: after step {self.step} the processes of this run lost each other "
        f"({reason_of(error)}); start the same command again on every machine: it goes on from "
        f"checkpoint {newest}",
        PEER_LOST,
      )
    except BaseException:
      with contextlib.suppress(OSError):  # what ends the run is the error to be told
        self._name_unusable()
        self.run.unusable.write()
      raise

  def _go(self) -> Outcome:
    steps = self.cfg.steps
    left = 0 if self.selection.stopped else max(steps - self.start, 0)
    batches = self.run.batches(self.start, left, self.host, self.hosts)
    with batches, _signals() as stop:
      starting = 0.0
      while self.step < steps and not self.selection.stopped:
        if self.step == self.start:  # the reader's threads begin now: no device could have worked
          with self.chrono.park("start"):
            batch = next(batches)
          starting = batches.wait_seconds
        else:
          batch = next(batches)
        self._train_on(batch)
        self.chrono.done(self.step, batches.wait_seconds - starting)
        self._name_unusable()
        self.progress.update(line(self.chrono.speed(), self.latest))
        if _due(self.step, self.cfg.validate_every, steps) and self.run.validation:
          self._validate()
        if self.selection.stopped or _due(self.step, self.cfg.save_every, steps):
          self._save()
        if self._asked_to_stop(stop):
          self._save(wait=True)
          raise Interrupted(self.step, stop.number or signal.SIGTERM)
    if not left and self.run.validation:
      self._validate(write=False)
    return self._outcome()

  def _train_on(self, batch: Mapping[str, np.ndarray]) -> None:
    rows = to_device(dict(batch), self.sharding)
    first = self.step == self.start
    with self.chrono.park("compile") if first else contextlib.nullcontext():
      with jax.transfer_guard("disallow"):
        self.state, metrics = self.step_fn(self.state, rows)
      if first:
        jax.block_until_ready(metrics)
        self.start_seconds = process_seconds()
    self.step += 1
    self._read(self.late.push(self.step, metrics))

  def _read(self, ready: tuple[int, dict[str, float]] | None) -> None:
    """Takes note of the metrics of a finished step."""
    if ready is None:
      return
    step, self.latest = ready
    if not math.isfinite(self.latest.get("param_norm", 0.0)):
      # No update makes them so: the step keeps what was there. Memory or a device has failed.
      raise RunError(
        f"step {step}: the parameters themselves are not finite, which no update can have done; "
        "nothing of it is saved: start again, from the newest checkpoint, on other hardware"
      )
    if _due(step, self.cfg.log_every, self.cfg.steps):
      speed = self.chrono.speed()
      pace = {"clips_per_second": speed.clips_per_second, "idle_share": speed.idle_share}
      self.run.still_there()
      with self._failures(step):
        self.writer.write(step, {**self.latest, **pace})
        self.checkpoints.raise_if_failed()  # a full disk, say, long before the next save
    if self.latest["skipped_in_row"]:
      self.progress.message(
        f"step {step}: loss or gradient not finite; the batch changed nothing "
        f"({self.latest['skipped']:.0f} so far)"
      )
    for name, limit in (
      ("skipped_in_row", self.cfg.max_skipped_in_row),
      ("skipped", self.cfg.max_skipped),
    ):
      if limit and self.latest[name] >= limit:
        raise RunError(
          f"step {step}: loss or gradient were not finite in {self.latest[name]:.0f} batches "
          f"{'in a row' if name == 'skipped_in_row' else 'of this run'}; lower optim.peak_lr or "
          f"set optim.clip_norm 1, and look at the audio (the limit is --loop.max_{name})"
        )

  def _validate(self, write: bool = True) -> None:
    with self.chrono.park("validation"):
      self._read(self.late.flush())
      total: dict[str, float] = {}
      collected: list[dict[str, np.ndarray]] = []
      rows = counted = 0.0
      whole = NamedSharding(self.run.mesh, PartitionSpec())
      assert self.run.validation is not None
      with self.run.validation(self.host, self.hosts) as batches:
        for index, batch in enumerate(batches):
          placed = to_device(batch, self.sharding)
          number = jax.device_put(np.int32(index), whole)
          values = jax.device_get(self.eval_fn(self.state, placed, number))
          if "outputs" in values:
            collected.append({"outputs": values.pop("outputs"), **values.pop("given")})
          rows += float(values.pop("rows"))
          weight = float(values.pop("counted"))
          for name, value in values.items():
            total[name] = total.get(name, 0.0) + weight * float(value)
          counted += weight
      self._name_unusable()
      # Where nothing counts there is no loss, and 0 would pass for the best of all checkpoints.
      means = {name: value / counted if counted else math.nan for name, value in total.items()}
      scores = self._score(collected)
      self.validation = {**means, **scores}
      if write:
        with self._failures(self.step):
          self.writer.write(self.step, self.validation, part="validation")
        more = "".join(f", {name} {value:.4f}" for name, value in scores.items())
        self.progress.message(
          f"step {self.step}: validation loss {means['loss']:.4f}{more} on {rows:.0f} held-out "
          "clips"
        )
        self._select()

  def _select(self) -> None:
    """Keeps the state of this validation if it is one of the best, and says if the run ends."""
    better = self.selection.note(self.step, self.validation)
    with self._failures(self.step):
      points = [*self.checkpoints.steps, self.saving]
      self.selection.write(self._variables() if better else None, points)
    if self.selection.stopped:
      self.progress.message(f"step {self.step}: {self.selection.verdict}; the run ends here")

  def _variables(self) -> dict[str, np.ndarray]:
    """What a network of this state is made of, by path, on the host."""
    params = self.state.params if self.state.ema is None else self.state.ema
    tree = {"params": params, "model_state": self.state.model_state}
    return leaves_by_path(on_host(tree))

  def _score(self, collected: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The run's own figures over all validation clips, without padding."""
    if self.run.score is None or not collected:
      return {}
    whole = {name: np.concatenate([part[name] for part in collected]) for name in collected[0]}
    real = whole.pop("mask", np.ones(len(whole["outputs"]), bool))
    kept = {name: values[real] for name, values in whole.items()}
    return self.run.score(kept.pop("outputs"), kept)

  def _save(self, wait: bool = False) -> None:
    with self.chrono.park("checkpoint"):
      # Metrics reach the disk before the checkpoint that ends their step, so none is ever missing,
      # and so does what was found unusable.
      self._read(self.late.flush())
      self.run.still_there()
      known = {"loss": self.validation["loss"]} if self.validation else None
      fresh = _due(self.step, self.cfg.validate_every, self.cfg.steps)
      self.saving = self.step
      with self._failures(self.step, last=wait):
        self.run.unusable.write()
        if self.selection.behind:  # a checkpoint without the checks before it is no way on
          self.selection.write(None, [*self.checkpoints.steps, self.saving])
        self.checkpoints.save(self.state, known if fresh else None, wait=wait)
      hand_back()  # saving frees copies of the whole state

  @contextlib.contextmanager
  def _failures(self, step: int, last: bool = False) -> Iterator[None]:
    """Lets the run go on without a checkpoint or metrics that could not be written, if it may.

    last: nothing comes after that could make up for it.
    """
    alone = jax.process_count() == 1  # the others would wait for a checkpoint that never completes
    last = last or step >= self.cfg.steps or self.selection.stopped
    may = self.cfg.failed_save == "go_on" and alone and not last
    try:
      yield
    except OSError as error:  # CheckpointError among them
      if not may:
        raise
      text = str(error) if isinstance(error, CheckpointError) else f"metrics: {reason_of(error)}"
      if text != self.failure:
        self.progress.message(f"step {step}: {text}; going on (--loop.failed_save)")
      self.failure = text
    else:
      self.failure = ""

  def _asked_to_stop(self, stop: _Stop) -> bool:
    if jax.process_count() > 1:  # all hosts must stop after the same step
      return multihost_utils.reached_preemption_sync_point(self.step)
    return stop.number is not None

  def _name_unusable(self) -> None:
    for name, reason in self.run.unusable.news():
      self.progress.message(f"unusable recording {name}: {reason}; left out")

  def _outcome(self) -> Outcome:
    self._read(self.late.flush())
    self.checkpoints.wait()
    self.selection.sweep(self.checkpoints.steps)
    self.run.unusable.write()
    speed = self.chrono.speed()
    return Outcome(
      state=self.state,
      start_step=self.start,
      validation_loss=self.validation.get("loss"),
      validation=self.validation,
      best_step=self.checkpoints.best_step,
      clips_per_second=speed.clips_per_second,
      idle_share=speed.idle_share,
      start_seconds=self.start_seconds,
      skipped=int(jax.device_get(self.state.skipped)),
      bad_recordings=self.run.unusable.all(),
      best=self.selection.best,
    )


def _due(step: int, every: int, last: int) -> bool:
  return step == last or (every > 0 and step % every == 0)


class _Stop:
  """Which signal asked the run to stop, if any."""

  number: int | None = None


@contextlib.contextmanager
def _signals() -> Iterator[_Stop]:
  """Notes the first SIGTERM or Ctrl-C instead of dying of it; a second one is obeyed at once.

  One that was ignored when the run began, as Ctrl-C is in a script's background job, stays ignored.
  """
  stop = _Stop()
  if threading.current_thread() is not threading.main_thread():
    yield stop
    return
  numbers = [signal.SIGINT]
  if jax.process_count() == 1:  # else JAX's own handler tells all hosts about SIGTERM
    numbers.append(signal.SIGTERM)
  before = {n: handler for n in numbers if (handler := signal.getsignal(n)) is not signal.SIG_IGN}

  def note(number: int, frame: FrameType | None) -> None:
    del frame
    stop.number = number
    for each, handler in before.items():
      signal.signal(each, handler)

  for number in before:
    signal.signal(number, note)
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
