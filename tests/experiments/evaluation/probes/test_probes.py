"""The probes against scikit-learn and NumPy, and what they must not see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from experiments.evaluation.folds import Folds, standardised, targets_of
from experiments.evaluation.linear import linear_accuracy
from experiments.evaluation.probes.attention import pool
from experiments.evaluation.probes.fit import FitConfig, fit_probe
from experiments.evaluation.probes.knn import neighbour_votes
from experiments.evaluation.probes.linear import NEVER, fit_logistic
from experiments.evaluation.probes.mlp import mlp
from experiments.evaluation.trained import (
  AttentionConfig,
  MlpConfig,
  attention_accuracy,
  mlp_accuracy,
  pad_frames,
)
from pipelines.errors import DataError

RNG = np.random.default_rng(0)
COUNT, WIDTH, CLASSES = 90, 6, 3
LABELS = RNG.integers(0, CLASSES, COUNT).astype(np.int32)
# Parts of different sizes, so that some are padded.
GROUPS = [f"g{min(i // 25, 2)}" for i in range(COUNT)]
FOLDS = Folds.of(GROUPS)
FEATURES = (np.eye(CLASSES, WIDTH)[LABELS] + 0.7 * RNG.standard_normal((COUNT, WIDTH))) * [
  1, 100, 0.01, 10, 1, 1,
] + 5  # fmt: skip
QUICK = {"epochs": 60, "patience": 10, "peak_lr": 1e-2, "batch": 32}


def parts(fold):
  """(training features, bool[n], all features) of a fold as scikit-learn would get them."""
  train = FOLDS.train[fold]
  scaler = StandardScaler().fit(FEATURES[train])
  return scaler.transform(FEATURES[train]), train, scaler.transform(FEATURES)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 10])
def test_votes_are_those_of_scikit_learn(metric, k):
  inputs = standardised(FEATURES, FOLDS)
  votes = neighbour_votes(
    inputs.values, inputs.shift, inputs.scale, FOLDS.train, FOLDS.test_rows,
    targets_of(LABELS, CLASSES), k=k, metric=metric,
  )  # fmt: skip
  found = FOLDS.gather(np.asarray(votes))
  for fold in range(3):
    train_x, train, all_x = parts(fold)
    model = KNeighborsClassifier(n_neighbors=k, metric=metric, algorithm="brute")
    model.fit(train_x, LABELS[train])
    test = ~train
    np.testing.assert_allclose(found[test] / k, model.predict_proba(all_x[test]), atol=1e-6)
    np.testing.assert_array_equal(found[test].argmax(axis=1), model.predict(all_x[test]))


def logits_of(labels, c, classes=CLASSES):
  inputs = standardised(FEATURES, FOLDS)
  targets, tagged = targets_of(labels, classes), labels.ndim > 1
  parts = (inputs.values, inputs.shift, inputs.scale, FOLDS.train, targets)
  return np.asarray(fit_logistic(*parts, c, tagged=tagged))


@pytest.mark.parametrize("c", [0.1, 1.0, 100.0])
def test_the_regression_converges_to_that_of_scikit_learn(c):
  """Within 1e-3 in probability: float32 here, float64 there."""
  logits = logits_of(LABELS, c)
  for fold in range(3):
    train_x, train, all_x = parts(fold)
    model = LogisticRegression(C=c, max_iter=10_000, tol=1e-8).fit(train_x, LABELS[train])
    ours = np.asarray(jax.nn.softmax(logits[fold]))
    np.testing.assert_allclose(ours, model.predict_proba(all_x), atol=1e-3)


def test_tags_get_a_regression_each():
  tags = (FEATURES[:, :2] > FEATURES[:, :2].mean(axis=0)).astype(np.int32)
  tags ^= RNG.random(tags.shape) < 0.1
  logits = logits_of(tags, 1.0)
  for fold in range(3):
    train_x, train, all_x = parts(fold)
    for tag in range(2):
      model = LogisticRegression(max_iter=10_000, tol=1e-8).fit(train_x, tags[train, tag])
      ours = jax.nn.sigmoid(logits[fold, :, tag])
      np.testing.assert_allclose(ours, model.predict_proba(all_x)[:, 1], atol=1e-3)
  assert linear_accuracy(FEATURES, tags, GROUPS).measure == "mAP"


def test_a_class_that_one_group_alone_has_is_left_out_there():
  labels = np.where(np.array(GROUPS) == "g1", 2, LABELS % 2).astype(np.int32)
  logits = logits_of(labels, 1.0)
  assert (logits[1, :, 2] == NEVER).all()
  assert (np.abs(logits[[0, 2]]) < 1e3).all()
  train_x, train, all_x = parts(1)
  model = LogisticRegression(max_iter=10_000, tol=1e-8).fit(train_x, labels[train])
  ours = np.asarray(jax.nn.softmax(logits[1, :, :2]))
  np.testing.assert_allclose(ours[:, 1], model.predict_proba(all_x)[:, 1], atol=1e-3)


def test_a_perceptron_learns_what_a_line_cannot():
  place = RNG.uniform(-1, 1, (240, 2))
  labels = ((place[:, 0] > 0) ^ (place[:, 1] > 0)).astype(np.int32)
  groups = [f"g{i % 3}" for i in range(240)]
  cfg = MlpConfig(**QUICK, hidden=32, dropout=0.0)
  found = mlp_accuracy(place, labels, groups, cfg, seeds=2)
  assert linear_accuracy(place, labels, groups).value < 0.65
  assert found.value > 0.9
  assert len(found.seeds) == 2
  assert found.as_dict()["hidden"] == 32


def fit(features, labels, folds=FOLDS, seeds=1, dropout=0.3, **changes):
  cfg = FitConfig(**{**QUICK, "epochs": 5, **changes})
  inputs = standardised(features, folds)
  return fit_probe(mlp(8, dropout), cfg, inputs, targets_of(labels, CLASSES), folds, seeds=seeds)


@pytest.mark.slow
def test_seeds_differ_and_repeat():
  two = fit(FEATURES, LABELS, seeds=2)
  np.testing.assert_array_equal(two, fit(FEATURES, LABELS, seeds=2))
  np.testing.assert_allclose(two[:1], fit(FEATURES, LABELS), atol=1e-4)
  assert np.abs(two[0] - two[1]).max() > 0.01


def test_the_left_out_group_teaches_and_stops_nothing():
  """Its labels and its features change; what is said of the others must not, nor of itself."""
  before = fit(FEATURES, LABELS)
  left = FOLDS.number == 1
  changed = fit(FEATURES, np.where(left, (LABELS + 1) % CLASSES, LABELS).astype(np.int32))
  np.testing.assert_array_equal(changed[0, left], before[0, left])
  assert np.abs(changed[0, ~left] - before[0, ~left]).max() > 1e-3


def test_training_stops_when_the_held_out_loss_rises():
  """Labels of noise: what is learnt by heart helps no held-out clip, so few epochs count."""
  labels = RNG.integers(0, CLASSES, COUNT).astype(np.int32)
  early = fit(FEATURES, labels, epochs=300, patience=5, dropout=0.0)
  late = fit(FEATURES, labels, epochs=300, patience=300, dropout=0.0)
  np.testing.assert_allclose(early, late, atol=1e-5)  # the epoch of the lowest loss is the same
  assert np.abs(early).max() < 6


def test_pooling_by_attention():
  frames = RNG.standard_normal((2, 4, 3)).astype(np.float32)
  valid = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
  query = RNG.standard_normal(3).astype(np.float32)
  found = np.asarray(pool(jnp.asarray(query), jnp.asarray(frames), jnp.asarray(valid)))
  weight = np.exp(frames[0, :3] @ query / np.sqrt(3))
  np.testing.assert_allclose(found[0], weight @ frames[0, :3] / weight.sum(), atol=1e-6)
  np.testing.assert_allclose(found[1], frames[1, 0], atol=1e-6)
  even = pool(jnp.zeros(3), jnp.asarray(frames), jnp.asarray(valid))
  np.testing.assert_allclose(even[0], frames[0, :3].mean(axis=0), atol=1e-6)


def test_attention_finds_the_frame_that_tells():
  """One frame of twelve has the class beside a flag; the mean over time drowns it in noise."""
  labels = np.tile(np.arange(2, dtype=np.int32), 60)
  clips = []
  for label in labels:
    clip = 1.5 * RNG.standard_normal((RNG.integers(10, 15), 4)).astype(np.float32)
    at = RNG.integers(len(clip))
    clip[:, 3] = 0
    clip[at] = [3 * label - 1.5, 0, 0, 6]
    clips.append(clip)
  groups = [f"g{i // 2 % 3}" for i in range(120)]
  cfg = AttentionConfig(epochs=150, patience=40, peak_lr=3e-2, batch=32)
  found = attention_accuracy(clips, labels, groups, cfg)
  means = np.stack([clip.mean(axis=0) for clip in clips])
  assert found.value > linear_accuracy(means, labels, groups).value + 0.1
  assert found.value > 0.85


def test_frames_are_padded_and_refused():
  padded, valid = pad_frames([np.ones((2, 3), np.float32), np.ones((1, 3), np.float32)])
  assert padded.shape == (2, 2, 3)
  assert padded.sum() == 9
  assert valid.tolist() == [[True, True], [True, False]]
  with pytest.raises(DataError, match="too short to have a frame"):
    pad_frames([np.ones((0, 3), np.float32)])
  huge = np.broadcast_to(np.float32(0), (1 << 22, 1024))
  with pytest.raises(DataError, match="16 GiB"):
    pad_frames([huge])


def test_errors_of_trained_probes():
  run = functools.partial(mlp_accuracy, cfg=MlpConfig())
  with pytest.raises(DataError, match="mlp: the features of 1 of 4 clips are not finite"):
    run(np.array([[1.0], [2], [np.nan], [3]]), np.array([0, 1, 0, 1]), list("aabb"))
  with pytest.raises(DataError, match="mlp: the clips outside one group are all of one class"):
    run(np.ones((4, 1)), np.array([0, 0, 0, 1]), list("aabb"))
