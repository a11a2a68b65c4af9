"""Embeddings of parts: order, targets, and that they are made once."""

import random

import numpy as np
import pytest

from experiments.evaluation.hear.embeddings import embed_parts, join
from experiments.evaluation.hear.folder import open_folder
from pipelines.errors import BadAudio, DataError
from tests.experiments.evaluation.hear.small import LABELS, Spectrum, bands, write_folder

FOLDS = ("fold00", "fold01", "fold02")


@pytest.fixture
def tones(tmp_path):
  return open_folder(write_folder(tmp_path / "tones", FOLDS, {}))


def test_rows_are_clips_in_the_order_of_the_public_package(tones, tmp_path):
  """Its generator goes on from part to part."""
  parts = embed_parts(tones, Spectrum(), tmp_path / "out")
  order = random.Random(0)
  for name in FOLDS:
    files = [f"{name}_{i}.wav" for i in range(6)]
    order.shuffle(files)
    part = parts[name]
    assert part.files == tuple(files)
    for i, file in enumerate(files):
      np.testing.assert_array_equal(part.x[i], bands(tones.load(name, file, 8_000)))
      assert LABELS[part.y[i].argmax()] == tones.truth(name)[file][0]
  assert parts["fold01"].y.sum() == 6


def test_they_are_made_once_for_a_model(tones, tmp_path):
  model, out = Spectrum(), tmp_path / "out"
  first = embed_parts(tones, model, out)
  assert model.heard == 18
  again = embed_parts(tones, model, out)
  assert model.heard == 18
  np.testing.assert_array_equal(first["fold00"].x, again["fold00"].x)
  (out / "fold01.npz").write_bytes(b"damaged")
  embed_parts(tones, model, out)
  assert model.heard == 24
  model.settings = {"model": "another"}
  embed_parts(tones, model, out)
  assert model.heard == 24 + 18


def test_events_have_a_row_for_every_moment(tmp_path):
  given = {
    "embedding_type": "event",
    "prediction_type": "multilabel",
    "evaluation": ["event_onset_200ms_fms"],
  }
  folder = open_folder(write_folder(tmp_path / "sounds", FOLDS, given, clips=2))
  parts = embed_parts(folder, Spectrum(), tmp_path / "out")
  part = join([parts["fold00"], parts["fold01"]])
  assert part.x.shape == (4 * 40, 8)
  assert part.owner.tolist() == np.repeat(range(4), 40).tolist()
  events = folder.truth_of(part.files)[part.files[2]]
  mine = part.owner == 2
  for k, label in enumerate(LABELS):
    covered = [
      any(e.label == label and e.start <= t <= e.end for e in events) for t in part.times[mine]
    ]
    assert part.y[mine, k].tolist() == covered


def test_what_a_model_cannot_hear_is_named(tones, tmp_path):
  class Deaf(Spectrum):
    def group(self, samples):
      raise BadAudio("too short")

  with pytest.raises(DataError, match=r"fold00: fold00_\d.wav: too short"):
    embed_parts(tones, Deaf(), tmp_path / "out")

  class Wild(Spectrum):
    def scenes(self, waves):
      return [np.full(8, np.nan, np.float32) for _ in waves]

  with pytest.raises(DataError, match="not finite"):
    embed_parts(tones, Wild(), tmp_path / "out")
