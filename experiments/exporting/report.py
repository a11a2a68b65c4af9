"""What an exported file gives beside the JAX model: differences, size, latency."""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Call = Callable[[np.ndarray], np.ndarray]
# Calls before the counted ones.
WARM_UP = 5
# Of the largest logit: float32 noise of sums in another order.
NOISE = 1e-4


@dataclasses.dataclass(frozen=True)
class Row:
  """One contender.

  kilobytes: of its file in units of 1000 bytes, None for JAX. difference: the largest between its
  logits and those of JAX. largest: logit of JAX in absolute value. agree: clips of `clips` with the
  same first class. milliseconds, least: median and minimum for one clip.
  """

  name: str
  kilobytes: float | None
  difference: float
  largest: float
  agree: int
  clips: int
  milliseconds: float
  least: float

  @property
  def equal(self) -> bool:
    """Whether the logits are those of JAX within float32 noise."""
    return self.difference <= NOISE * self.largest


def compared(
  reference: Call,
  contenders: Mapping[str, tuple[Call, int]],
  clips: Sequence[np.ndarray],
  runs: int,
) -> list[Row]:
  """A row for JAX and one for each contender, given with the bytes of its file.

  Every round times each contender once, so that what else the machine does falls on all.
  """
  calls = {"JAX": reference} | {name: call for name, (call, _) in contenders.items()}
  logits = {name: np.stack([call(clip) for clip in clips]) for name, call in calls.items()}
  taken: dict[str, list[float]] = {name: [] for name in calls}
  for run in range(WARM_UP + runs):
    for name, call in calls.items():
      start = time.perf_counter()
      call(clips[run % len(clips)])
      taken[name] += [1e3 * (time.perf_counter() - start)] * (run >= WARM_UP)
  want = logits["JAX"]
  rows = []
  for name, got in logits.items():
    size = contenders[name][1] / 1000 if name in contenders else None
    same = int(np.sum(got.argmax(axis=1) == want.argmax(axis=1)))
    difference, largest = np.abs(got - want).max(), np.abs(want).max()
    median, least = statistics.median(taken[name]), min(taken[name])
    rows.append(Row(name, size, float(difference), float(largest), same, len(clips), median, least))
  return rows


def table(rows: Sequence[Row]) -> str:
  """Markdown."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  lines = [
    f"largest logit {rows[0].largest:.3g}; milliseconds for one clip, median and least; JAX may "
    f"use {cores} core{'s' if cores != 1 else ''}, the files use one thread",
    "",
    "| | kB | largest difference | same first class | ms |",
    "| --- | --- | --- | --- | --- |",
  ]
  for row in rows:
    size = "" if row.kilobytes is None else f"{row.kilobytes:,.0f}"
    difference = f"{row.difference:.2g}" if row.kilobytes is not None else ""
    same = f"{row.agree} of {row.clips}"
    lines.append(
      f"| {row.name} | {size} | {difference} | {same} | {row.milliseconds:.2f} / {row.least:.2f} |"
    )
  return "\n".join(lines)
