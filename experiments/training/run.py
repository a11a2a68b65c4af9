"""What the training loop is told, how it can end, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jax.sharding import Mesh

from experiments.training.errors import UsageError
from experiments.training.optim import Optimiser
from experiments.training.selection import Check, SelectConfig
from experiments.training.state import TrainState
from experiments.training.task import Task
from experiments.training.unusable import Unusable


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """How long a run lasts and what it leaves behind. Counts are in steps, 0 switches off."""

  steps: int = 1_500_000  # length of the whole run
  batch_size: int = 256  # clips of the global batch, over all devices and hosts
  seed: int = 42  # decides initial weights, order, crops and masks
  log_every: int = 50  # metrics are written every so many steps
  validate_every: int = 15_000  # loss on the held-out clips, and at the end
  save_every: int = 1_000  # a checkpoint, and at the end
  keep: int = 2  # latest checkpoints that stay
  keep_best: int = 1  # checkpoints with the lowest validation loss that stay besides
  # batches in a row without a finite loss, gradient and update before the run gives up
  max_skipped_in_row: int = 20
  max_skipped: int = 1_000  # the same over the whole run
  # what a checkpoint that cannot be written does (a full disk, say): "stop" ends the run, "go_on"
  # says so and tries again at the next one; the last one of a run always counts
  failed_save: Literal["stop", "go_on"] = "stop"
  # seconds that another process of the run may be silent before this one ends
  peer_seconds: int = 100

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      low = 1 if field.name in ("steps", "batch_size", "peer_seconds") else 0
      if isinstance(value, int) and value < low:
        raise UsageError(f"--loop.{field.name} {value}: it must be at least {low}")


class Interrupted(Exception):
  """SIGTERM or Ctrl-C came; the state of `step` is saved."""

  def __init__(self, step: int, signal_number: int):
    self.step, self.signal_number = step, signal_number
    name = signal.Signals(signal_number).name
    super().__init__(f"stopped by {name} after step {step}; the same command goes on from there")


@dataclasses.dataclass(frozen=True)
class Run:
  """What the loop drives, and where it writes.

  Attributes:
    task: the model and its loss.
    optimiser: of the whole run.
    mesh: the devices.
    cfg: lengths and intervals.
    workdir: folder of checkpoints and metrics.
    batches: (start step, steps, host index, host count) -> iterator of host batches, with
      `wait_seconds`, closed by a with statement.
    validation: () -> an iterator of evaluation batches, or None without held-out clips.
    record: the resolved configuration, saved with every checkpoint.
    data: fingerprint of the data set.
    may_differ: fields of the record in which a resumed run may depart.
    clip_seconds: length of a clip, for the hours of audio in the progress line.
    prog: the command, as errors name it.
    start: () -> {"params", "model_state"} on the host that a new run begins with, such as
      pre-trained weights, in place of what the task's `init` draws.
    score: (outputs of the task over all validation clips, what the batches held of them besides
      waves) -> figures that are no mean over batches, such as a mean average precision.
    unusable: recordings that cannot be used, which the loop names and lists.
    still_there: raises RunError where the folder has vanished.
    young: the record of a run with every default, for checkpoints older than a field of it.
    select: when the run ends early, and which of its states are kept in the folder `best`.
  """

  task: Task
  optimiser: Optimiser
  mesh: Mesh
  cfg: LoopConfig
  workdir: Path
  batches: Callable[[int, int, int, int], Any]
  validation: Callable[[int, int], Any] | None
  record: Mapping[str, Any]
  data: str
  may_differ: tuple[str, ...]
  clip_seconds: float
  unusable: Unusable
  prog: str = "pretrain"
  start: Callable[[], Mapping[str, Any]] | None = None
  score: Callable[[np.ndarray, Mapping[str, np.ndarray]], dict[str, float]] | None = None
  still_there: Callable[[], None] = lambda: None
  young: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  select: SelectConfig = dataclasses.field(default_factory=SelectConfig)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run ended: its state, where it began, and its last figures.

  validation: the figures of the last validation.
  best: the validations of the best states, best first, as `Run.select` has it.
  start_seconds: from the start of the process to the end of its first step; 0 without a step.
  """

  state: TrainState
  start_step: int
  validation_loss: float | None
  validation: Mapping[str, float]
  best_step: int | None
  clips_per_second: float
  idle_share: float
  start_seconds: float
  skipped: int
  bad_recordings: tuple[tuple[str, str], ...]
  best: tuple[Check, ...] = ()
