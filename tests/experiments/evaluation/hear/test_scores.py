"""Scores inside the program against scikit-learn's, ties included; and those of events."""

import math

import jax
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from experiments.evaluation.hear.folder import Event
from experiments.evaluation.hear.program_scores import probabilities, program_score
from experiments.evaluation.hear.scores import CLIP_SCORES, clip_score, event_scores
from pipelines.errors import DataError

RNG = np.random.default_rng(0)
# Steps of a half: many scores are equal.
LOGITS = (np.round(2 * RNG.standard_normal((60, 14))) / 2).astype(np.float32)
ONE = np.eye(14, dtype=np.float32)[RNG.permutation(np.arange(60) % 14)]
MANY = (RNG.random((60, 14)) < 0.3).astype(np.float32)


@pytest.mark.parametrize("tags", [False, True])
@pytest.mark.parametrize("name", CLIP_SCORES)
def test_scores_in_the_program_are_those_of_the_host(name, tags):
  targets = MANY if tags else ONE
  told = np.asarray(probabilities(LOGITS, tags))
  found = jax.jit(program_score(name, tags))(LOGITS, targets)
  # within the rounding of some hundred float32 sums
  assert float(found) == pytest.approx(clip_score(name, told, targets), abs=1e-5)


def test_scores_of_the_host_are_scikit_learn_s():
  told = np.asarray(probabilities(LOGITS, True))
  assert clip_score("mAP", told, MANY) == average_precision_score(MANY, told)
  assert clip_score("aucroc", told, MANY) == pytest.approx(roc_auc_score(MANY, told), abs=1e-12)
  assert clip_score("top1_acc", ONE, ONE) == 1.0
  assert clip_score("top1_acc", np.roll(ONE, 12, axis=1), ONE) == 0.0
  low = np.eye(14)[[0, 1]]
  assert clip_score("chroma_acc", np.roll(low, 12, axis=1), low) == 1.0


def test_a_class_that_cannot_be_judged():
  none = MANY.copy()
  none[:, 3] = 0
  told = np.asarray(probabilities(LOGITS, True))
  assert math.isnan(clip_score("aucroc", told, none))
  assert math.isnan(float(program_score("aucroc", True)(LOGITS, none)))
  others = clip_score("mAP", np.delete(told, 3, axis=1), np.delete(none, 3, axis=1))
  expected = clip_score("mAP", told, none)
  assert expected == pytest.approx(others * 13 / 14)  # it counts as 0
  assert float(program_score("mAP", True)(LOGITS, none)) == pytest.approx(expected, abs=1e-5)


def test_unknown_scores():
  assert program_score("segment_1s_er", True) is None
  with pytest.raises(DataError, match="'wer': unknown"):
    clip_score("wer", ONE, ONE)
  with pytest.raises(DataError, match="'wer': unknown"):
    event_scores("wer", {}, {}, ())


def test_scores_of_events():
  pytest.importorskip("sed_eval", reason="needs the extra [hear]")
  truth = {"a": [Event("x", 0.0, 1000.0), Event("y", 2000.0, 3000.0)], "b": []}
  late = {"a": [Event("x", 150.0, 1000.0), Event("y", 2300.0, 3000.0)], "b": []}
  assert event_scores("event_onset_200ms_fms", truth, truth, "xy")["f_measure"] == pytest.approx(1)
  found = event_scores("event_onset_200ms_fms", late, truth, "xy")
  assert list(found) == ["f_measure", "precision", "recall"]
  assert found["f_measure"] == pytest.approx(0.5)
  assert event_scores("event_onset_50ms_fms", late, truth, "xy")["f_measure"] == pytest.approx(0)
  with_ends = event_scores("event_onset_offset_50ms_20perc_fms", late, truth, "xy")
  assert with_ends["f_measure"] == pytest.approx(0)
  assert event_scores("segment_1s_er", truth, truth, "xy") == {"error_rate": 0.0}
  nothing = {"a": [], "b": []}
  assert event_scores("segment_1s_er", nothing, truth, "xy")["error_rate"] == pytest.approx(1)
