"""The benchmark's scores on the host, by their names: scikit-learn's, and sed_eval's for events.

Source: `heareval` 2021.1.3, score.py. Means over classes are plain. A class without a positive clip
has an average precision of 0; where one has no positive or no negative, area and d' are NaN.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.evaluation.hear.folder import Event
from experiments.training.errors import UsageError
from pipelines.errors import DataError

# name -> (kind, of which figure is the score, settings of sed_eval): seconds, and shares of length.
EVENT_SCORES: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
  "event_onset_200ms_fms": (
    "event",
    ("f_measure", "precision", "recall"),
    {"evaluate_onset": True, "evaluate_offset": False, "t_collar": 0.2},
  ),
  "event_onset_50ms_fms": (
    "event",
    ("f_measure", "precision", "recall"),
    {"evaluate_onset": True, "evaluate_offset": False, "t_collar": 0.05},
  ),
  "event_onset_offset_50ms_20perc_fms": (
    "event",
    ("f_measure", "precision", "recall"),
    {
      "evaluate_onset": True,
      "evaluate_offset": True,
      "t_collar": 0.05,
      "percentage_of_length": 0.2,
    },
  ),
  "segment_1s_er": ("segment", ("error_rate",), {"time_resolution": 1.0}),
}
CLIP_SCORES = ("top1_acc", "pitch_acc", "chroma_acc", "mAP", "aucroc", "d_prime")
LOWER_IS_BETTER = ("segment_1s_er",)
CHROMA = 12  # semitones of an octave

Events = Mapping[str, Sequence[Event]]


def clip_score(name: str, probabilities: np.ndarray, targets: np.ndarray) -> float:
  """One score of clips: probabilities f32[n, k] and targets 0 or 1 of the same shape."""
  from scipy.stats import norm
  from sklearn.metrics import average_precision_score, roc_auc_score

  found, right = probabilities.argmax(axis=1), targets.argmax(axis=1)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of classes that a part cannot judge: see above
    match name:
      case "top1_acc" | "pitch_acc":
        return float(np.mean(found == right))
      case "chroma_acc":
        return float(np.mean(found % CHROMA == right % CHROMA))
      case "mAP":
        return float(average_precision_score(targets, probabilities, average="macro"))
      case "aucroc" | "d_prime":
        if any(len(np.unique(column)) < 2 for column in targets.T):
          return math.nan
        areas = roc_auc_score(targets, probabilities, average=None)
        return float(np.mean(areas if name == "aucroc" else math.sqrt(2) * norm.ppf(areas)))
  raise DataError(f"score {name!r}: unknown; known: {', '.join((*CLIP_SCORES, *EVENT_SCORES))}")


def event_scores(
  name: str, found: Events, truth: Events, labels: Sequence[str]
) -> dict[str, float]:
  """The figures of one score of events; the score itself is the first.

  found, truth: events of each recording, whose names are `found`'s.
  """
  if name not in EVENT_SCORES:
    raise DataError(f"score {name!r}: unknown; known: {', '.join(EVENT_SCORES)}")
  sed_eval = load_sed_eval()
  kind, figures, settings = EVENT_SCORES[name]
  metrics = {
    "event": sed_eval.sound_event.EventBasedMetrics,
    "segment": sed_eval.sound_event.SegmentBasedMetrics,
  }[kind](event_label_list=list(labels), **settings)
  for file in found:
    metrics.evaluate(
      reference_event_list=_container(truth[file], file),
      estimated_event_list=_container(found[file], file),
    )
  overall = metrics.results_overall_metrics()
  flat = {figure: value for part in overall.values() for figure, value in part.items()}
  return {figure: float(flat[figure]) for figure in figures}


def load_sed_eval() -> Any:
  """The library itself. Raises UsageError where it is absent."""
  try:
    import sed_eval
  except ImportError:
    raise UsageError(
      "scores of events need sed_eval: pip install 'dasheng-jax[hear]', or leave out dcase2016 "
      "and maestro"
    ) from None
  return sed_eval


def _container(events: Sequence[Event], file: str) -> Any:
  import dcase_util

  return dcase_util.containers.MetaDataContainer(
    [
      {
        "event_label": event.label,
        "event_onset": event.start / 1000,
        "event_offset": event.end / 1000,
        "file": file,
      }
      for event in events
    ]
  )
