"""What a fold learns from, and its standardisation, which the left-out group must not touch."""

import numpy as np
import pytest

from experiments.evaluation.folds import Folds, standardised, targets_of
from experiments.evaluation.left_out import left_out
from pipelines.errors import DataError

RNG = np.random.default_rng(0)
GROUPS = ["b", "a", "b", "c", "b", "a"]


def test_rows_of_each_part():
  folds = Folds.of(GROUPS)
  assert folds.names == ("b", "a", "c")
  for i, name in enumerate(folds.names):
    test = [n for n, group in enumerate(GROUPS) if group == name]
    assert folds.test_rows[i, : folds.test_count[i]].tolist() == test
    train = [n for n in range(6) if n not in test]
    assert folds.train_rows[i, : folds.train_count[i]].tolist() == train
    assert np.flatnonzero(folds.train[i]).tolist() == train
  made = np.zeros((3, 3, 2), np.float32)
  for i in range(3):
    made[i, :, 0] = folds.test_rows[i]
  assert folds.gather(made)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
  with pytest.raises(DataError, match="probe: .* found \\['x'\\]"):
    Folds.of(["x", "x"], "probe")


@pytest.mark.parametrize("framed", [False, True])
def test_standardisation_is_that_of_the_training_part(framed):
  """Features far from zero, where squares in float32 would lose the deviation."""
  folds = Folds.of(GROUPS)
  features = RNG.standard_normal((6, 4, 3)) * [1e-2, 1.0, 5.0] + [1e3, -7.0, 0.0]
  features[..., 2] = np.where((folds.number == 0)[:, None], features[..., 2], 4.0)
  valid = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]] * 2, bool)
  if not framed:
    features, valid = features[:, 0], None
  inputs = standardised(features, folds, valid)
  for i in range(3):
    part = features[folds.train[i]]
    rows = part[valid[folds.train[i]]] if framed else part
    ours = (inputs.values - inputs.shift[i]) * inputs.scale[i]
    deviation = rows.std(axis=0)
    want = (features - rows.mean(axis=0)) / np.where(deviation > 0, deviation, np.inf)
    there = valid if framed else np.ones(6, bool)
    np.testing.assert_allclose(ours[there], want[there], atol=2e-4)
  assert inputs.scale[0, 2] == 0  # constant outside of the group b


def test_targets():
  assert targets_of(np.array([1, 0], np.int32), 3).tolist() == [[0, 1, 0], [1, 0, 0]]
  tags = np.array([[1, 1], [0, 0]], np.int32)
  assert targets_of(tags, 2).tolist() == tags.tolist()


def test_scores_over_seeds_and_groups():
  labels = np.array([0, 1, 1, 0], np.int32)
  right = np.eye(2, dtype=np.float32)[labels]
  half = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
  found = left_out(np.stack([right, half]), labels, Folds.of(list("aabb")), {"epochs": 3})
  assert found.accuracy == 0.75
  assert found.seeds == (1.0, 0.5)
  assert found.per_group == {"a": 1.0, "b": 0.5}
  assert found.figure() == "75.0 ± 35.4 %"
  told = found.as_dict()
  assert told["spread"] == pytest.approx(np.std([1, 0.5], ddof=1))
  assert (told["epochs"], told["clips"], told["measure"]) == (3, 4, "accuracy")


def test_tags_are_scored_within_each_group_that_can_judge_them():
  """Outputs of the second group lie far above those of the first: pooled, they would hurt."""
  labels = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 1], [1, 1]], np.int32)
  outputs = np.where(labels > 0, 1.0, 0.0) + np.array([0, 0, 9, 9, 0, 0])[:, None]
  found = left_out(outputs[None].astype(np.float32), labels, Folds.of(list("aabbcc")), {})
  assert found.measure == "mAP"
  assert found.per_group == {"a": 1.0, "b": 1.0}  # every clip of the third has both tags
  assert found.value == 1.0
  with pytest.raises(DataError, match="no group has clips with a tag"):
    left_out(outputs[None, 4:], labels[4:], Folds.of(list("ab")), {})
