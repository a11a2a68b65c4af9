"""Batches of waves of one group: none mixed, none fuller than asked for, none forgotten."""

import numpy as np
import pytest

from experiments.evaluation.batched import batched
from pipelines.errors import BadAudio, DataError


def test_batches_hold_one_group_and_full_ones_do_not_wait():
  read, heard = [], []

  def waves():
    for key, samples in enumerate((3, 5, 3, 5, 5, 3, 4)):
      read.append(key)
      yield f"clip{key}", np.zeros(samples)

  def embed(rows):
    heard.append(([row.size for row in rows], len(read)))
    return [row.size * 10 for row in rows]

  found = list(batched(waves(), lambda n: f"g{n}", {"g3": 2, "g4": 2, "g5": 3}.get, embed, str))
  # What they held, and how many waves had been read by then.
  assert heard == [([3, 3], 3), ([5, 5, 5], 5), ([3], 7), ([4], 7)]
  assert [key for key, _ in found] == [f"clip{i}" for i in (0, 2, 1, 3, 4, 5, 6)]
  assert dict(found)["clip4"] == 50


def test_what_belongs_to_no_group_is_named():
  def group(samples):
    raise BadAudio(f"{samples} samples are too few")

  found = batched([(7, np.zeros(2))], group, lambda name: 1, list, lambda key: f"set: clip {key}")
  with pytest.raises(DataError, match="^set: clip 7: 2 samples are too few$"):
    list(found)
