"""Recordings heard whole: batches of those of one length, so that none is padded to another's.

A program is compiled for every length. Where recordings differ in length, `grid_seconds` rounds
lengths up to its multiples, with zeros behind the recording, which bounds how many there are. So
are recordings lengthened that are shorter than a network can hear (`Dataset.least_samples`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipelines.config import DataConfig
from pipelines.dataset import Dataset


class WholeBatch(NamedTuple):
  """The clips of a batch i64[b], -1 for padding, and the samples of its rows."""

  examples: np.ndarray
  samples: int


def lengths(frames: np.ndarray, rates: np.ndarray, cfg: DataConfig, least: int = 1) -> np.ndarray:
  """Samples i64[n] at `cfg.sample_rate` that hold each recording, rounded up to the grid.

  frames, rates: of the recordings as they are stored, i64[n] samples and i32[n] Hz. least: samples
  that every recording gets before it is rounded.
  """
  per_second = np.maximum(rates, 1).astype(np.int64)
  exact = np.maximum(least, -(-np.asarray(frames, np.int64) * cfg.sample_rate // per_second))
  step = max(1, round(cfg.grid_seconds * cfg.sample_rate))
  return -(-exact // step) * step


def whole_batches(dataset: Dataset, batch_size: int) -> list[WholeBatch]:
  """Every recording of a data set once, the shortest first; batches hold one length each."""
  found = np.concatenate(
    [
      lengths(source.frames[rows], source.rates[rows], dataset.cfg, dataset.least_samples)
      for source, rows in (
        (source, dataset.recordings_of(i)) for i, source in enumerate(dataset.sources)
      )
    ]
  )
  batches = []
  for length in np.unique(found):
    examples = np.flatnonzero(found == length)
    spare = -len(examples) % batch_size
    padded = np.concatenate([examples, np.full(spare, -1)]).astype(np.int64)
    batches += [WholeBatch(rows, int(length)) for rows in padded.reshape(-1, batch_size)]
  return batches
