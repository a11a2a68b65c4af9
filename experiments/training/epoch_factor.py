"""The learning rate of MN and DyMN: an exponential warm-up and a linear ramp-down, by epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from experiments.training.errors import UsageError


@dataclass(frozen=True)
class EpochFactor:
  """Share of the peak learning rate, set once at the start of an epoch.

  Source: reference text of MN and DyMN, section 10.1; the defaults are those of AudioSet.
  """

  warmup: int = 8  # epochs until the peak
  ramp_start: int = 80  # last epoch at the peak
  ramp_length: int = 95  # epochs until the last share
  last: float = 0.01

  def __post_init__(self):
    for name, low in (("warmup", 0), ("ramp_start", 0), ("ramp_length", 1)):
      if (value := getattr(self, name)) < low:
        raise UsageError(f"schedule.{name}={value} must be at least {low}")
    if not 0 <= self.last <= 1:
      raise UsageError(f"schedule.last={self.last} must be from 0 to 1")

  def __call__(self, epoch: int) -> float:
    """The share in `epoch`, from 0. Warm-up and ramp-down are multiplied where they overlap."""
    up = 1.0
    if epoch < self.warmup:
      up = math.exp(-5.0 * (1.0 - max(epoch, 0.5) / self.warmup) ** 2)
    left = min(max((self.ramp_start + self.ramp_length - epoch) / self.ramp_length, 0.0), 1.0)
    return up * (self.last + (1 - self.last) * left)


CONSTANT = EpochFactor(warmup=0, ramp_start=0, ramp_length=1, last=1.0)
