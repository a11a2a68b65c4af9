"""The linear probe: certainty, chance, the solver's own answer, and no leak from the test part."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.evaluation.linear import linear_accuracy
from pipelines.errors import DataError

RNG = np.random.default_rng(0)
LABELS = np.tile(np.arange(4), 30)
GROUPS = [f"g{i // 40}" for i in range(120)]


def test_separable_features_are_all_right_and_noise_is_chance():
  features = np.eye(4)[LABELS] * 10 + RNG.standard_normal((120, 4))
  result = linear_accuracy(features, LABELS, GROUPS)
  assert result.accuracy == 1.0
  assert result.as_dict()["c"] == 1.0
  assert 0.05 < linear_accuracy(RNG.standard_normal((120, 4)), LABELS, GROUPS).accuracy < 0.45


def test_it_is_the_probe_that_a_pipeline_would_fit():
  """Features of very different scales, so that a missing standardisation would show."""
  features = (np.eye(4)[LABELS] + RNG.standard_normal((120, 4))) * [1, 100, 0.01, 10] + 5
  ours = linear_accuracy(features, LABELS, GROUPS, c=0.3)
  group = np.array(GROUPS)
  for name, accuracy in ours.per_group.items():
    test = group == name
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2_000))
    probe.fit(features[~test], LABELS[~test])
    assert accuracy == probe.score(features[test], LABELS[test])


def test_the_left_out_group_teaches_nothing():
  """Each group has a label and a place of its own: every answer must be wrong."""
  labels = np.repeat([0, 1, 2], 10)
  features = np.eye(3)[labels] + 0.01 * RNG.standard_normal((30, 3))
  assert linear_accuracy(features, labels, [f"g{k}" for k in labels]).accuracy == 0.0


def test_errors():
  features = RNG.standard_normal((4, 2))
  with pytest.raises(DataError, match="c=0"):
    linear_accuracy(features, np.array([0, 1, 0, 1]), list("aabb"), c=0)
  with pytest.raises(DataError, match="all of one class"):
    linear_accuracy(features, np.array([0, 0, 1, 1]), list("aabb"))
