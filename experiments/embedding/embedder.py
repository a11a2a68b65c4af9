"""What the loop over recordings asks of a family of models, and the batches both families share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32

from pipelines.errors import BadAudio


class Embedding(NamedTuple):
  """What a model says about one recording.

  scene: one vector for all of it. timestamps: one vector for each of `times_ms`, which are the
  centres of what they describe in milliseconds from the start; both None where not asked for.
  """

  scene: Float32[np.ndarray, " d"]
  timestamps: Float32[np.ndarray, "n e"] | None = None
  times_ms: Float32[np.ndarray, " n"] | None = None


class Embedder(Protocol):
  """A model with its settings.

  Attributes:
    sample_rate: Hz of the waves it takes.
    settings: all that decides the numbers, for JSON; equal settings give equal embeddings.
  """

  sample_rate: int
  settings: dict[str, Any]

  def group(self, samples: int) -> Hashable:
    """Waves of one group can share a batch. Raises BadAudio for a wave that is too short."""

  def rows(self, group: Hashable) -> int:
    """Waves that fill a batch of this group."""

  def embed(self, waves: Sequence[np.ndarray]) -> list[Embedding]:
    """The embedding of each wave f32[s] of one group, whatever company it is in."""


def in_batches(
  call: Callable[..., Any], rows: Sequence[tuple], sizes: Sequence[int]
) -> list[tuple[np.ndarray, ...]]:
  """`call(*columns)` over rows, some at a time; the outputs row by row.

  A row is a tuple of arrays (or numbers), a column the stack of one place of all rows. Every shape
  is compiled once, so a batch has one of `sizes`, which ascend from 1. A rest of at least half a
  size is filled up to it with copies of its last row.
  """
  outputs: list[tuple[np.ndarray, ...]] = []
  at = 0
  while at < len(rows):
    left = len(rows) - at
    size = next(size for size in reversed(sizes) if size <= 2 * left or size == 1)
    batch = rows[at : at + size]
    at += len(batch)
    filled = [*batch, *[batch[-1]] * (size - len(batch))]
    columns = [np.stack([np.asarray(x) for x in column]) for column in zip(*filled, strict=True)]
    made = [np.asarray(x) for x in call(*columns)]
    outputs += [tuple(x[i] for x in made) for i in range(len(batch))]
  return outputs


def powers_of_two(most: int) -> tuple[int, ...]:
  """1, 2, 4, ... below `most`, and `most`."""
  return (*(1 << i for i in range(most.bit_length()) if 1 << i < most), most)


def check_long_enough(samples: int, least: int, rate: int, why: str) -> None:
  """BadAudio for a recording of fewer than `least` samples."""
  if samples < least:
    raise BadAudio(
      f"too short: {1000 * samples / rate:.0f} ms; at least {1000 * least / rate:.0f} ms {why}"
    )
