"""Probes that judge what they have not met, and the folder that logits are stored in."""

import numpy as np
import pytest

from experiments.teaching.listeners import fit_probe, open_listener
from experiments.teaching.store import LogitStore
from experiments.training.errors import UsageError
from pipelines.teacher import open_teacher


def clusters(count=60, seed=0):
  """(embeddings, class, label): two clusters, and one clip in six under the wrong label.

  There are more dimensions than clips, so that a probe could learn every label by heart.
  """
  draw = np.random.default_rng(seed)
  truth = np.arange(count) % 2
  x = draw.standard_normal((count, 80)).astype(np.float32) + truth[:, None]
  labels = np.where(np.arange(count) % 6 == 0, 1 - truth, truth)
  return x, truth, labels


def probe(x, labels, trainable, objective="classes", folds=5, classes=2):
  ids = [f"clip {i}" for i in range(len(x))]
  return fit_probe(x, ids, trainable, labels, classes=classes, objective=objective, folds=folds)


def test_a_probe_has_not_met_what_it_judges():
  """Wrong labels do not come back; with the clip among those it learns from, all of them would."""
  x, truth, labels = clusters()
  logits = probe(x, labels, np.ones(60, bool))
  assert logits.shape == (60, 2)
  wrong = truth != labels
  assert np.mean(logits.argmax(axis=1)[wrong] == labels[wrong]) <= 0.3
  assert np.mean(logits.argmax(axis=1)[~wrong] == labels[~wrong]) > 0.85
  twice = probe(np.concatenate([x, x]), np.concatenate([labels] * 2), np.arange(120) < 60)
  assert (twice[60:].argmax(axis=1) == labels).all()
  held_out = np.arange(60) < 20
  told = probe(x, labels, ~held_out)
  assert np.mean(told[held_out].argmax(axis=1) == truth[held_out]) > 0.7
  # What is held out does not move the others, whatever it looks like.
  moved = np.where(held_out[:, None], 100.0, x).astype(np.float32)
  unmoved = probe(moved, labels, ~held_out)[~held_out]
  np.testing.assert_allclose(unmoved, told[~held_out], atol=1e-4)


def test_tags_and_three_classes():
  x, truth, _ = clusters()
  x = x[:, :8] + 3 * truth[:, None].astype(np.float32)
  marks = np.stack([truth, 1 - truth, np.zeros(60)], axis=1).astype(np.float32)
  logits = probe(x, marks, np.ones(60, bool), "tags", classes=3)
  assert ((logits[:, 0] > 0) == (truth > 0)).mean() > 0.95
  assert (logits[:, 2] == -10).all()  # nobody has the tag
  three = np.arange(60) % 3
  shifted = x + 6 * np.eye(8, dtype=np.float32)[three]
  assert (probe(shifted, three, np.ones(60, bool), classes=4).argmax(axis=1) == three).mean() > 0.9


def test_probes_that_cannot_be_fitted():
  x, truth, _ = clusters()
  with pytest.raises(UsageError, match="--folds 1"):
    probe(x, truth, np.ones(60, bool), folds=1)
  with pytest.raises(UsageError, match="two classes or more"):
    probe(x, np.zeros(60, int), np.ones(60, bool))
  with pytest.raises(ValueError, match="no such weight file"):
    open_listener("/nowhere.pt", 2, "classes", 5)


def test_a_store_goes_on_where_it_stopped_and_keeps_to_its_record(tmp_path):
  record = {"classes": ["x", "y"], "models": ["m"]}
  store = LogitStore(tmp_path / "logits", record)
  store.add(["a", "b"], np.array([[1, 2], [3, 4]], np.float32))
  again = LogitStore(tmp_path / "logits", record)
  assert again.finished == 1
  again.add(["c"], np.array([[5, 6]], np.float32))
  teacher = open_teacher(str(tmp_path / "logits"))
  np.testing.assert_array_equal(teacher.logits(teacher.rows_of(["c", "a"])), [[5, 6], [1, 2]])
  with pytest.raises(UsageError, match="holds logits of another models"):
    LogitStore(tmp_path / "logits", {**record, "models": ["n"]})
  with pytest.raises(UsageError, match="of 1 of 1 recordings are not finite"):
    again.add(["d"], np.array([[np.nan, 0]], np.float32))
  assert LogitStore(tmp_path / "logits", record).finished == 2
