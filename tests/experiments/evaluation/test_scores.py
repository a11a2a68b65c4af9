"""Scores over a whole set, against values by hand and the recorded ones of OpenMIC."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.evaluation.part_scores import score_of
from experiments.evaluation.scores import (
  class_scores,
  error_rate,
  lwlrap,
  mean_average_precision_at,
  per_class_table,
  tag_scores,
)
from pipelines.errors import DataError
from pipelines.sets import TrainingSet
from tests.mobile_jax.fixtures import golden


def test_one_class_per_clip():
  logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]))
  labels = np.array([0, 1, 1, 0])
  scores = class_scores(logits.astype(np.float32), labels)
  assert scores.means["accuracy"] == 0.5
  assert scores.means["class_accuracy"] == 0.5  # of the two classes that occur
  want = -np.mean(np.log([0.7, 0.8, 0.3, 0.2]))
  assert scores.means["log_loss"] == pytest.approx(want, rel=1e-6)
  np.testing.assert_allclose(
    scores.per_class["log_loss"], [-np.log(0.14) / 2, -np.log(0.24) / 2, np.nan], rtol=1e-6
  )
  assert scores.confusion.tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
  table = per_class_table(scores, ["a", "b", "c"])
  assert table[-1] == {"class": "c", "accuracy": None, "log_loss": None, "clips": 0.0}


def test_tags():
  logits = np.array([[3.0, 0.0], [2.0, 1.0], [1.0, 2.0], [0.0, 3.0]], np.float32)
  targets = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], np.float32)
  scores = tag_scores(logits, targets)
  # Ranks of the positives are 1 and 3: precisions 1 and 2/3; three of four pairs are in order.
  assert scores.means["mAP"] == pytest.approx((1 + 2 / 3) / 2)
  assert scores.means["roc_auc"] == pytest.approx(0.75)
  assert scores.means["d_prime"] == pytest.approx(math.sqrt(2) * 0.67448975)
  assert scores.means["classes"] == 1  # nobody has the second tag
  assert math.isnan(scores.per_class["average_precision"][1])
  perfect = tag_scores(targets, targets)
  assert perfect.means["mAP"] == 1
  assert math.isfinite(perfect.means["d_prime"])


def test_what_nobody_judged_has_no_say():
  logits = np.array([[3.0], [2.0], [1.0], [9.0]], np.float32)
  targets = np.array([[1], [0], [1], [0]], np.float32)
  judged = np.array([[1], [1], [1], [0]], np.float32)
  found = tag_scores(logits, targets, judged).means
  assert found["mAP"] == pytest.approx((1 + 2 / 3) / 2)
  assert found["roc_auc"] == pytest.approx(0.5)


def test_the_recorded_scores_of_openmic():
  recorded = golden("mobile_training")
  logits, targets, judged = (
    np.asarray(recorded[f"openmic/metric_{name}"]) for name in ("scores", "targets", "mask")
  )
  found = tag_scores(logits, targets, judged)
  for ours, theirs in (("average_precision", "ap"), ("roc_auc", "roc")):
    want = np.asarray(recorded[f"openmic/metric_{theirs}_per_class"])
    np.testing.assert_allclose(found.per_class[ours], want, atol=1e-7)


def test_outputs_that_are_not_finite_or_do_not_fit():
  with pytest.raises(DataError, match="the outputs of 1 of 2 clips are not finite"):
    class_scores(np.array([[np.nan, 0], [0, 1]], np.float32), np.array([0, 1]))
  with pytest.raises(DataError, match=r"labels must lie within 0\.\.1"):
    class_scores(np.zeros((2, 2), np.float32), np.array([0, 2]))
  with pytest.raises(DataError, match="do not belong to"):
    tag_scores(np.zeros((2, 2), np.float32), np.zeros((2, 3), np.float32))
  nothing = tag_scores(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)).means
  assert nothing["classes"] == 0
  assert math.isnan(nothing["mAP"])


def test_ranking_by_hand():
  logits = np.array([[3, 2, 1, 0], [3, 2, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], np.float32)
  labels = np.array([2, 3, 0, 1])
  # Ranks 3, 4, 2 (the worse of two that are tied) and 4.
  assert mean_average_precision_at(logits, labels) == pytest.approx((1 / 3 + 0 + 1 / 2 + 0) / 4)
  assert error_rate(logits, labels) == 0.75
  targets = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], np.float32)
  # Tags at ranks 2 and 3 of the first clip, 1 of the second, 4 of the last; the third has none.
  assert lwlrap(logits, targets) == pytest.approx((1 / 2 + 2 / 3 + 1 + 1 / 4) / 4)
  assert math.isnan(lwlrap(logits, np.zeros_like(targets)))


def test_recorded_figures(shared):
  """Those of the weakly supervised taggers' metrics, within 1e-6."""
  folder = shared / "fixtures" / "tagging"
  arrays = load_file(folder / "metrics.safetensors")
  want = json.loads((folder / "metrics.json").read_text())
  targets = arrays["labels"].astype(np.float32)
  for case, name in (("plain", "scores"), ("ties", "scores_ties")):
    found = tag_scores(arrays[name], targets)
    told = want[case]
    np.testing.assert_allclose(
      found.per_class["average_precision"], told["ap_per_class"], atol=1e-6
    )
    np.testing.assert_allclose(found.per_class["roc_auc"], told["auc_per_class"], atol=1e-6)
    ours = [found.means[key] for key in ("mAP", "roc_auc", "d_prime")]
    theirs = [told[key] for key in ("mAP", "mAUC", "dprime_of_mean_auc")]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert lwlrap(arrays[name], targets) == pytest.approx(told["lwlrap"], abs=1e-6)
  empty = targets.copy()
  empty[:, 2] = 0
  found = tag_scores(arrays["scores"], empty).means
  told = want["class2_without_positives"]
  assert found["mAP"] == pytest.approx(told["mAP_skipping"], abs=1e-6)
  with_zero = found["mAP"] * found["classes"] / targets.shape[1]
  assert with_zero == pytest.approx(told["mAP_with_zero"], abs=1e-6)
  one, labels = arrays["single_scores"], arrays["single_labels"]
  told = want["single_label"]
  assert class_scores(one, labels).means["accuracy"] == pytest.approx(told["accuracy"], abs=1e-6)
  assert error_rate(one, labels) == pytest.approx(told["error_rate"], abs=1e-6)
  for cut in (1, 3):
    found = mean_average_precision_at(one, labels, cut)
    assert found == pytest.approx(told[f"mAP_at_{cut}"], abs=1e-6)


def test_the_metric_of_a_set_comes_first():
  logits = np.array([[2.0, 1.0], [1.0, 2.0]], np.float32)
  one = np.array([[0, 1], [0, 1]], np.float32)

  def first(metric, objective, labels):
    labelled = TrainingSet("x", ("a", "b"), objective, {}, metric=metric)
    return next(iter(score_of(labelled, logits, {"labels": labels}).means.items()))

  assert first("mAP_at_3", "tags", one) == ("mAP_at_3", 0.75)
  assert first("lwlrap", "tags", one) == ("lwlrap", 0.75)
  assert first("error_rate", "classes", np.array([1, 1])) == ("error_rate", 0.5)
  assert first("", "classes", np.array([1, 1])) == ("accuracy", 0.5)
  with pytest.raises(DataError, match="of clips with one tag each"):
    first("mAP_at_3", "tags", np.ones((2, 2), np.float32))
  with pytest.raises(DataError, match="metric 'mAPP' is not one of mAP_at_3, lwlrap"):
    first("mAPP", "tags", one)
