"""How long a step takes at best: operations, memory traffic and messages at their peak rates.

A roofline, no forecast. No program reaches the peak of a chip: `together` is what no program of
this traffic can beat, and `apart` adds to the work all messages, sent on one ring while nothing is
computed. Neither is a promise: products that reach 70 % of the peak, say, make both slower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.planning.chips import Chip
from experiments.planning.collectives import Traffic


@dataclass(frozen=True)
class StepTime:
  """Seconds of one step by what takes them. `outer` is None where its speed is not published."""

  compute: float
  memory: float
  links: float
  ring: float
  outer: float | None

  @property
  def together(self) -> float:
    """All at once, over all links: the longest of them."""
    return max(self.compute, self.memory, self.links, self.outer or 0.0)

  @property
  def apart(self) -> float:
    """Messages on one ring and by themselves; memory and products overlap as they do on a chip."""
    return max(self.compute, self.memory) + self.ring + (self.outer or 0.0)

  @property
  def limit(self) -> str:
    """What takes longest."""
    parts = {
      "compute": self.compute,
      "memory": self.memory,
      "links": self.links,
      "network": self.outer or 0.0,
    }
    return max(parts, key=lambda name: parts[name])


def step_time(chip: Chip, flops: float, moved: float, exchanges: Sequence[Traffic]) -> StepTime:
  """Seconds for one device's operations, bytes of memory traffic and exchanges."""
  inner = sum(x.inner for x in exchanges)
  outer = sum(x.outer for x in exchanges)
  slow: float | None = 0.0
  if outer:
    slow = outer / chip.outer_bandwidth if chip.outer_bandwidth else None
  return StepTime(
    flops / chip.peak_flops,
    moved / chip.hbm_bandwidth,
    inner / chip.link_bandwidth,
    inner / chip.ring_bandwidth,
    slow,
  )


@dataclass(frozen=True)
class Speed:
  """What a time per step means for a run."""

  clips_per_second: float
  mfu: float
  hours: float
  chip_hours: float


def speed(
  seconds: float, batch: int, model_flops: float, chip: Chip, devices: int, clips: float
) -> Speed:
  """Speed of a run of `clips` clips. model_flops: per clip, without what is recomputed."""
  rate = batch / seconds
  hours = clips / rate / 3600
  return Speed(rate, rate * model_flops / (devices * chip.peak_flops), hours, hours * devices)


def balanced_clips(time: StepTime, clips: int, *, one_ring: bool = True) -> int:
  """Clips per device and step from which on computing takes longer than the messages.

  What is sent hardly depends on the clips, what is computed is proportional to them.
  """
  messages = (time.ring if one_ring else time.links) + (time.outer or 0.0)
  return max(1, math.ceil(clips * messages / time.compute)) if time.compute else 1


def least_traffic(
  params: int, width: int, state: int, saved: int, gathers: int, shards: int
) -> float:
  """Bytes that a step cannot do without in the device's memory.

  The state read and written, the gradient (float32) written and read, the weights read in the
  compute type once for each of `gathers` passes, and what is saved for the backward pass written
  and read. width: bytes of a number in the compute type.
  """
  return 2.0 * state + 8.0 * params / shards + float(gathers) * width * params + 2.0 * saved
