"""Values that change from epoch to epoch, as functions of the step.

Batches follow each other without a gap, so an epoch may begin in the middle of one; a step belongs
to the epoch of its first clip. (The originals cut the last batch of an epoch short instead.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training.errors import UsageError


@dataclass(frozen=True)
class Epochs:
  """How many clips an epoch has, and how they fall into steps.

  Args:
    count: epochs of the run.
    clips: clips of an epoch.
    batch_size: clips of a step.
  """

  count: int
  clips: int
  batch_size: int

  def __post_init__(self):
    if self.count < 1:
      raise UsageError(f"--loop.epochs {self.count}: it must be at least 1")

  @property
  def steps(self) -> int:
    """Steps after which every epoch is through."""
    return self.start(self.count)

  def start(self, epoch: int) -> int:
    """The first step that belongs to an epoch, from 0."""
    return math.ceil(epoch * self.clips / self.batch_size)

  def of(self, step: Any) -> Any:
    """The epoch of a step, from 0; of an int, a NumPy or a JAX array."""
    starts = np.array([self.start(epoch) for epoch in range(1, self.count)], np.int32)
    if isinstance(step, jax.Array):
      return jnp.sum(step >= starts)
    return np.sum(np.asarray(step)[..., None] >= starts, axis=-1)

  def table(self, value: Callable[[int], float]) -> Callable[[Any], Any]:
    """The function of the step that has `value(epoch)` throughout each epoch."""
    values = np.array([value(epoch) for epoch in range(self.count)], np.float64)

    def at(step: Any) -> Any:
      if isinstance(step, jax.Array):
        return jnp.asarray(values, jnp.float32)[self.of(step)]
      return values[self.of(step)]

    return at
