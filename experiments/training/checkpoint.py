"""Checkpoints of a run: asynchronous, atomic, the latest n and the best m, checked when read.

DIR/STEP/state    every array of the TrainState as nested dicts (orbax), by path
DIR/STEP/meta     json: configuration, seed, data fingerprint, library versions, and the shape,
                  dtype and checksum of every array
DIR/STEP.damaged  failed its checks, and was set aside when an older one was used instead
"""

import contextlib
import functools
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from dasheng_jax.weights.checksum import checksums
from dasheng_jax.weights.table import unflatten
from experiments.training.checkpoint_record import (
  FORMAT,
  CheckpointError,
  absolute,
  differences,
  hide_unreadable_metrics,
  read_meta,
  reason_of,
  refuse_newer,
  refuse_other_arrays,
  steps_on_disk,
)
from experiments.training.errors import UsageError
from experiments.training.paths import leaves_by_path, map_by_path
from experiments.training.state import TrainState

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_LOG = logging.getLogger(__name__)
_SWEEPS = 20  # tries to remove what a failed save left, while its writers come to an end
_SWEEP_SECONDS = 0.05  # between two tries


@functools.cache
def _one_voice() -> None:
  """Silences what orbax prints when a save fails; `CheckpointError` says it in one line.

  Its threads log a stack trace each, TensorStore calls back into event loops that are gone, and
  asyncio reports every write that failed beside the one that was waited for.
  """
  logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())
  warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
  logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
  before = sys.unraisablehook

  def hook(event: Any) -> None:
    if "Event loop is closed" not in str(event.exc_value):
      before(event)

  sys.unraisablehook = hook


class Checkpoints:
  """The checkpoints of one run. A context manager: leaving it waits for a save under way.

  Args:
    directory: made if absent; a path that every process sees.
    config: the resolved configuration, anything that json can write. A directory whose checkpoints
      hold another one is refused, with one line saying which fields differ.
    seed: the run's seed, and `data` a fingerprint of the data: compared like a field of `config`.
    data: see `seed`.
    keep: how many of the latest checkpoints stay.
    keep_best: how many of the best stay besides.
    metric: by which metric given to `save` they are ranked, lowest first.
    may_differ: dotted fields (or their prefixes) of `config` in which a resumed run may depart,
      e.g. ("config.mesh", "config.log_every").
    young: the configuration with every default: what an older checkpoint meant by a field that it
      does not have.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    *,
    config: Mapping[str, Any],
    seed: int,
    data: str = "",
    keep: int = 2,
    keep_best: int = 1,
    metric: str = "loss",
    may_differ: tuple[str, ...] = (),
    young: Mapping[str, Any] | None = None,
  ):
    if keep < 1 or keep_best < 0:
      raise UsageError(f"keep={keep}, keep_best={keep_best}: keep at least 1 checkpoint")
    _one_voice()
    self.directory = absolute(directory)
    self.metric = metric
    versions = {name: metadata.version(name) for name in LIBRARIES}
    run = {"config": config, "seed": seed, "data": data}
    self._run = json.loads(json.dumps(run))  # tuples become lists, as they will when read back
    self._young = json.loads(json.dumps({"config": young or {}}))
    self._versions = versions
    self._torn = False  # a save has failed: what it left may come back until its writers end
    self._refuse_other_run(may_differ)
    if jax.process_index() == 0:
      for step in hide_unreadable_metrics(self.directory):
        _LOG.warning("checkpoint %d in %s: unreadable metric, not ranked", step, self.directory)
    ranked = policies.BestN(
      get_metric_fn=self._score, n=keep_best, keep_checkpoints_without_metrics=False
    )
    with self._one_line(f"cannot open {self.directory}"):
      self._manager = ocp.CheckpointManager(
        self.directory,
        item_names=("state", "meta"),
        options=ocp.CheckpointManagerOptions(
          preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), ranked]),
          best_fn=self._score,
          cleanup_tmp_directories=True,  # what a killed process left half written
        ),
      )

  # --- what is there ---

  @property
  def steps(self) -> list[int]:
    """Finished checkpoints, oldest first."""
    return steps_on_disk(self.directory)

  @property
  def best_step(self) -> int | None:
    """The checkpoint with the lowest finite metric, or None where none was saved with a metric."""
    return self._manager.best_step()

  def meta(self, step: int) -> dict[str, Any]:
    """What was written beside the state."""
    return read_meta(self.directory, step)

  def _score(self, metrics: Mapping[str, float]) -> float:
    value = metrics.get(self.metric, math.inf)
    return -value if math.isfinite(value) else -math.inf

  def _refuse_other_run(self, may_differ: tuple[str, ...]) -> None:
    for step in reversed(steps_on_disk(self.directory)):
      try:
        saved = read_meta(self.directory, step)
      except CheckpointError:
        continue  # restoring reports it
      refuse_newer(f"checkpoint {step} in {self.directory}", saved)
      lines = differences(saved, self._run, may_differ, self._young)
      if lines:
        raise UsageError(
          f"{self.directory} holds another run (step {step}); saved -> asked: {'; '.join(lines)}; "
          "choose another directory or the saved values"
        )
      return

  # --- saving ---

  def save(
    self, state: TrainState, metrics: Mapping[str, float] | None = None, *, wait: bool = False
  ) -> bool:
    """Starts saving and returns once the arrays are copied; the state may be donated after that.

    Args:
      state: its `step` names the checkpoint.
      metrics: numbers known at this step; `metric` among them, if it is finite, makes it a
        candidate for the best.
      wait: return only when the checkpoint is complete on disk, as before the end of a process.

    Returns:
      False if this step is saved already.

    Raises:
      CheckpointError: this save, or the one before it, failed (a full disk, say).
    """
    step = int(jax.device_get(state.step))
    with self._saving(step), jax.transfer_guard("allow"):
      self._manager.wait_until_finished()
      self._sweep()
      if step in self.steps:
        return False
      arrays = leaves_by_path(state)
      finite = {k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)}
      sums = jax.device_get(checksums(arrays))
      record = {p: [list(x.shape), str(x.dtype), int(sums[p])] for p, x in arrays.items()}
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeSave(unflatten(arrays)),
          meta=ocp.args.JsonSave(
            {"format": FORMAT, **self._run, "versions": self._versions, "arrays": record}
          ),
        ),
        metrics=finite or None,
        force=True,
      )
      if wait:
        self._manager.wait_until_finished()
    return True

  def wait(self) -> None:
    """Returns when no save is under way; raises CheckpointError if the last one failed."""
    with self._saving(None):
      self._manager.wait_until_finished()

  def raise_if_failed(self) -> None:
    """Raises CheckpointError if a save under way has failed so far; waits for nothing."""
    with self._saving(None):
      self._manager.check_for_errors()

  def close(self) -> None:
    """Waits, then frees the threads; safe to call twice."""
    try:
      with self._saving(None):
        self._manager.close()
    finally:
      self._sweep()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  @contextlib.contextmanager
  def _saving(self, step: int | None) -> Iterator[None]:
    name = f"checkpoint {step}" if step is not None else "the last checkpoint"
    try:
      with self._one_line(f"cannot save {name} in {self.directory}"):
        yield
    except CheckpointError as error:
      self._torn = True
      self._sweep()
      with contextlib.suppress(Exception):
        self._manager.reload()
      kept = ", ".join(map(str, steps_on_disk(self.directory))) or "none"
      raise CheckpointError(f"{error}; complete on disk: {kept}") from error

  def _sweep(self) -> None:
    """Removes the folders of failed saves; call it while no save is under way.

    A torn checkpoint only takes the room that the next one needs. Orbax reports the first error
    while its other writers go on, and they make their folder anew when it is gone: so a failed
    save is swept up after at once, before the next save and at the end, and each time until
    nothing has come back.
    """
    if not self._torn or jax.process_index() != 0:
      return
    for attempt in range(_SWEEPS):
      if attempt:
        time.sleep(_SWEEP_SECONDS)
      torn = list(self.directory.glob("*.orbax-checkpoint-tmp*"))
      if attempt and not torn:
        return
      for folder in torn:
        with contextlib.suppress(Exception):  # written to or gone meanwhile: the next try sees
          folder.rmtree()

  @contextlib.contextmanager
  def _one_line(self, what: str) -> Iterator[None]:
    try:
      yield
    except (CheckpointError, UsageError):
      raise
    except Exception as error:
      raise CheckpointError(f"{what}: {reason_of(error)}") from error

  # --- restoring ---

  def restore_latest(self, target: TrainState) -> TrainState | None:
    """The newest sound checkpoint, put straight where `target` says; None if there is none.

    Args:
      target: ShapeDtypeStructs with shardings (`state.restore_target`); the mesh may be another
        than the one that saved.

    A damaged one is named in a warning, set aside as STEP.damaged, and the one before it is used.

    Raises:
      CheckpointError: every checkpoint is damaged, or the arrays are those of another model.
    """
    damaged: list[str] = []
    for step in reversed(self.steps):
      try:
        state = self.restore(step, target)
      except CheckpointError as error:
        damaged.append(str(error))
        continue
      self._set_aside([s for s in self.steps if s > step], damaged, step)
      return state
    if damaged:
      raise CheckpointError(f"{'; '.join(damaged)}; move {self.directory} away to start anew")
    return None

  def restore(self, step: int, target: TrainState) -> TrainState:
    """One checkpoint, checked array by array against the checksums taken when it was saved.

    Raises:
      CheckpointError: absent or damaged.
      UsageError: sound, but with arrays of other names, shapes or types than `target`.
    """
    what = f"checkpoint {step} in {self.directory} is damaged"
    record = self.meta(step).get("arrays")
    if not isinstance(record, dict):
      raise CheckpointError(f"{what}: its meta file lists no arrays")
    wanted = leaves_by_path(target)
    refuse_other_arrays(f"checkpoint {step} in {self.directory}", record, wanted)
    error: Exception | None = None
    with jax.transfer_guard("allow"):
      try:
        tree = unflatten(wanted)
        args = ocp.checkpoint_utils.construct_restore_args(tree)
        restored = self._manager.restore(
          step,
          args=ocp.args.Composite(state=ocp.args.PyTreeRestore(item=tree, restore_args=args)),
        )
        arrays = leaves_by_path(restored["state"])
      except Exception as caught:  # orbax and tensorstore raise many kinds for a bad file
        error = caught
      if not _all_agree(error is None):
        raise CheckpointError(f"{what}: {reason_of(error)}") from error
      sums = jax.device_get(checksums(arrays))
    wrong = [path for path in wanted if int(sums[path]) != record[path][2]]
    if wrong:
      raise CheckpointError(f"{what}: checksum of {', '.join(wrong[:3])} ({len(wrong)} arrays)")
    return map_by_path(lambda path, _: arrays[path], target)

  def _set_aside(self, steps: list[int], reasons: list[str], used: int) -> None:
    if not steps:
      return
    for reason in reasons:
      _LOG.warning("%s; going back to checkpoint %d", reason, used)
    if jax.process_index() == 0:
      for step in steps:
        aside = self.directory / f"{step}.damaged"
        if aside.exists():
          aside.rmtree()
        (self.directory / str(step)).rename(aside)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices("damaged checkpoints set aside")
    self._manager.reload()


def _all_agree(ok: bool) -> bool:
  if jax.process_count() == 1:
    return ok
  return bool(np.all(multihost_utils.process_allgather(np.asarray(ok))))
