"""The scores of outputs over a whole part of a set, by what the set's clips are labelled with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments.evaluation.device_scores import device_scores
from experiments.evaluation.scores import Scores, class_scores, tag_scores, with_measure
from pipelines.sets import TrainingSet


def score_of(labelled: TrainingSet, outputs: np.ndarray, given: Mapping[str, np.ndarray]) -> Scores:
  """Scores of logits f32[n, k] of a part's clips.

  given: what its batches held besides waves: labels, and judged or device where a set has them.
  Where the set names a metric, that is the first figure.
  """
  scores = _by_kind(labelled, outputs, given)
  if labelled.metric:
    return with_measure(scores, labelled.metric, outputs, given["labels"])
  return scores


def _by_kind(labelled: TrainingSet, outputs: np.ndarray, given: Mapping[str, np.ndarray]) -> Scores:
  if labelled.objective == "tags":
    return tag_scores(outputs, given["labels"], given.get("judged"))
  if labelled.devices is not None and "device" in given:
    return device_scores(outputs, given["labels"], given["device"], labelled.devices)
  return class_scores(outputs, given["labels"])
