"""k-NN with one group left out: chance, certainty, and no leak from the test part."""

import numpy as np
import pytest

from experiments.evaluation.knn import knn_accuracy
from pipelines.errors import DataError

RNG = np.random.default_rng(0)


def test_separable_features_are_all_right_and_noise_is_chance():
  labels = np.tile(np.arange(5), 40)
  groups = [f"g{i // 50}" for i in range(200)]
  features = np.eye(5)[labels] * 10 + RNG.standard_normal((200, 5))
  result = knn_accuracy(features, labels, groups)
  assert result.accuracy == 1.0
  assert result.per_group == {"g0": 1.0, "g1": 1.0, "g2": 1.0, "g3": 1.0}
  noise = knn_accuracy(RNG.standard_normal((200, 5)), labels, groups)
  assert 0.08 < noise.accuracy < 0.35


def test_neighbours_of_the_same_group_never_vote():
  """Each group has a label and a place of its own: every answer must be wrong."""
  labels = np.repeat([0, 1, 2, 3], 10)
  groups = [f"g{k}" for k in labels]
  features = np.eye(4)[labels] + 0.01 * RNG.standard_normal((40, 4))
  assert knn_accuracy(features, labels, groups, k=3).accuracy == 0.0


def test_accuracy_counts_clips_and_groups_keep_their_own():
  labels = np.array([0, 0, 1, 1, 0, 1, 1])
  features = np.array(
    [[0.0], [0.1], [1.0], [1.1], [0.05], [1.05], [0.02]]
  )  # the last one misplaced
  result = knn_accuracy(features, labels, ["a"] * 4 + ["b"] * 3, k=1, metric="euclidean")
  # 0.0 lies nearest to the misplaced clip, 0.1 to 0.05.
  assert result.per_group == pytest.approx({"a": 3 / 4, "b": 2 / 3})
  assert result.accuracy == pytest.approx(5 / 7)
  assert result.as_dict()["clips"] == 7
  assert result.row() == ["71.4 %", "66.7 (b)", "75.0 (a)"]


def test_a_feature_that_is_constant_outside_of_a_group_does_not_count_there():
  """The other group has it as large as can be: unscaled, it would drown the feature that tells."""
  labels = np.tile([0, 1], 20)
  groups = ["a"] * 20 + ["b"] * 20
  features = np.stack([labels + 0.1 * RNG.standard_normal(40), np.zeros(40)], axis=1)
  features[20:, 1] = 1e9 * RNG.standard_normal(20)
  assert knn_accuracy(features, labels, groups).per_group["b"] == 1.0


def test_scale_and_offset_of_a_feature_do_not_matter():
  labels = np.tile(np.arange(4), 30)
  groups = [f"g{i % 3}" for i in np.arange(120) // 4]
  features = np.eye(4)[labels] + 0.8 * RNG.standard_normal((120, 4))
  scaled = features * np.array([1e-3, 1.0, 1e4, 7.0]) + np.array([-5.0, 0.0, 1e5, 2.0])
  for metric in ("cosine", "euclidean"):
    plain = knn_accuracy(features, labels, groups, metric=metric)
    assert plain.accuracy == knn_accuracy(scaled, labels, groups, metric=metric).accuracy


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"features": np.full((20, 2), np.nan)}, "20 of 20 clips are not finite"),
    ({"groups": ["g"] * 20}, "two groups"),
    ({"metric": "manhattan"}, "unknown metric 'manhattan'"),
    ({"k": 11}, "k=11"),
    ({"k": 0}, "k=0"),
    ({"labels": np.zeros(19, np.int32)}, "do not belong together"),
  ],
)
def test_errors(change, words):
  good = {
    "features": RNG.standard_normal((20, 2)),
    "labels": np.tile([0, 1], 10),
    "groups": ["a"] * 10 + ["b"] * 10,
  }
  with pytest.raises(DataError, match=words):
    knn_accuracy(**(good | change))
