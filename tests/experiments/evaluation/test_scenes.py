"""Scene embeddings over a set: in its order, at the network's rate, whatever the lengths."""

import numpy as np
import pytest

from experiments.embedding.embedder import Embedding
from experiments.evaluation.scenes import embed_clips
from pipelines.errors import BadAudio, DataError
from pipelines.tasks import LabelledSet

LENGTHS = (300, 100, 300, 200, 100, 300, 300, 100)


class Summing:
  """Two waves of one length make a batch; the scene is the sum and the number of samples."""

  sample_rate = 32_000

  def __init__(self):
    self.settings = {}
    self.batches = []

  def group(self, samples):
    if samples < 100:
      raise BadAudio("too short: 1 ms")
    return samples

  def rows(self, group):
    del group
    return 2

  def embed(self, waves):
    self.batches.append(sorted({len(wave) for wave in waves}))
    return [Embedding(np.array([wave.sum(), len(wave)], np.float32)) for wave in waves]


def labelled(lengths):
  rates = []

  def load(i, rate=16_000):
    rates.append(rate)
    return np.full(lengths[i], i, np.float32)

  names = [f"clip{i}" for i in range(len(lengths))]
  return LabelledSet("s", names, np.zeros(len(lengths), np.int32), names, ["a"], load), rates


def test_rows_stand_in_the_order_of_the_set():
  embedder = Summing()
  clips, rates = labelled(LENGTHS)
  found = [made.scene for made in embed_clips(embedder, clips)]
  np.testing.assert_array_equal(found, [[i * n, n] for i, n in enumerate(LENGTHS)])
  assert set(rates) == {32_000}
  assert all(len(lengths) == 1 for lengths in embedder.batches)
  assert len(embedder.batches) == 2 + 2 + 1


def test_a_clip_that_cannot_be_heard_is_named():
  with pytest.raises(DataError, match="'clip1': too short"):
    embed_clips(Summing(), labelled((300, 3))[0])
