"""Metrics of some rows alone, and k-NN beside plain numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from experiments.evaluation.xares.head import Rounds, Rows
from experiments.evaluation.xares.neighbours import knn_scores, votes
from experiments.evaluation.xares.scores import (
  masked_accuracy,
  masked_precision,
  weighted_average,
)
from pipelines.errors import DataError


def test_precision_is_that_of_scikit_learn_with_ties():
  draw = np.random.default_rng(0)
  scores = draw.integers(0, 9, (60, 5)).astype(np.float32)
  targets = (draw.random((60, 5)) < 0.3).astype(np.float32)
  real = np.arange(60) < 50
  found = masked_precision(jnp.asarray(scores), jnp.asarray(targets), jnp.asarray(real))
  want = average_precision_score(targets[:50], scores[:50])
  assert float(found) == pytest.approx(want, abs=1e-6)
  targets[:, 4] = 0  # nothing to find: 0, as in the package
  found = masked_precision(jnp.asarray(scores), jnp.asarray(targets), jnp.asarray(real))
  want = average_precision_score(targets[:50, :4], scores[:50, :4]) * 4 / 5
  assert float(found) == pytest.approx(want, abs=1e-6)


def test_accuracy_of_the_real_rows():
  logits = jnp.asarray([[2.0, 1], [1, 2], [1, 2]])
  labels, real = jnp.asarray([0, 0, 1]), jnp.asarray([True, True, False])
  assert float(masked_accuracy(logits, labels, real)) == 0.5


def test_weighted_average():
  assert weighted_average([(0.5, 100), (0.8, 300)]) == pytest.approx(0.725)
  assert np.isnan(weighted_average([]))


def clips():
  draw = np.random.default_rng(1)
  labels = np.arange(40, dtype=np.int32) % 4
  x = draw.normal(size=(4, 6))[labels] + draw.normal(size=(40, 6))
  return x.astype(np.float32), labels


def rounds_of(trains, tests):
  test = Rows.of(tests)
  return Rounds(Rows.of(trains), test, test)


def by_hand(x, labels, train, test, scaling):
  known = x[train] / np.linalg.norm(x[train], axis=0 if scaling == "released" else 1, keepdims=True)
  right = []
  for i in test:
    alike = known @ (x[i] / np.linalg.norm(x[i]))
    nearest = np.argsort(-alike)[:10]
    weights = np.exp(alike[nearest] / 0.07)
    shares = np.bincount(labels[train][nearest], weights, 4)
    right.append(np.argmax(shares) == labels[i])
  return np.mean(right)


@pytest.mark.parametrize("scaling", ["released", "cosine"])
def test_knn_by_hand_and_in_rounds_of_other_sizes(scaling):
  x, labels = clips()
  trains = [np.arange(30), np.arange(10, 35)]
  tests = [np.arange(30, 40), np.array([0, 1, 2, 38, 39])]
  found = knn_scores(x, labels, rounds_of(trains, tests), 4, scaling)
  want = [by_hand(x, labels, *parts, scaling) for parts in zip(trains, tests, strict=True)]
  np.testing.assert_allclose(found, want, atol=1e-6)


def test_too_few_neighbours():
  x, labels = clips()
  with pytest.raises(DataError, match="10 neighbours vote, and a training part has 9"):
    knn_scores(x, labels, rounds_of([np.arange(9)], [np.arange(9, 12)]), 4)


@pytest.mark.torch
def test_votes_are_those_of_the_package(torch):
  trainer = pytest.importorskip("xares.trainer", reason="needs the package xares")
  x, labels = clips()
  known = trainer.KNN(torch.from_numpy(x[:30]), torch.from_numpy(labels[:30]).long(), num_classes=4)
  want = known(torch.from_numpy(x[30:])).numpy()
  train = Rows(jnp.arange(30), jnp.ones(30, bool))
  found = votes(jnp.asarray(x), jnp.asarray(labels), train, jnp.asarray(x[30:]), 4, "released")
  np.testing.assert_allclose(found, want, atol=1e-5)
