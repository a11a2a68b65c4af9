"""From events to labels of moments, and from probabilities of moments back to events.

Source: `heareval` 2021.1.3. A moment has the labels of the events that it lies in, both ends
included. Events are stretches of moments above a half after a median filter over time; one begins
at its first moment and ends at its last, and one that is too short is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32
from scipy.ndimage import median_filter

from experiments.evaluation.hear.folder import Event

THRESHOLD = 0.5


def moment_targets(
  events: Sequence[Event], times_ms: Float[np.ndarray, " n"], labels: Sequence[str]
) -> Float32[np.ndarray, "n k"]:
  """1 where an event of a label covers a moment, else 0."""
  targets = np.zeros((len(times_ms), len(labels)), np.float32)
  number = {label: i for i, label in enumerate(labels)}
  for event in events:
    inside = (times_ms >= event.start) & (times_ms < event.end + 1e-4)
    targets[inside, number[event.label]] = 1.0
  return targets


def events_of(
  probabilities: Float32[np.ndarray, "n k"],
  times_ms: Float[np.ndarray, " n"],
  labels: Sequence[str],
  median_filter_ms: float,
  least_ms: float,
) -> list[Event]:
  """The events of one recording, in order of their onsets.

  probabilities: of each moment and label, in [0, 1]. median_filter_ms: of the filter, rounded to
  whole moments; 0 leaves it out. least_ms: from the first to the last moment of an event.
  """
  if median_filter_ms and len(times_ms) > 1:
    width = round(median_filter_ms / float(np.mean(np.diff(times_ms))))
    if width:
      probabilities = median_filter(probabilities, size=(width, 1))
  active = np.pad((probabilities > THRESHOLD).astype(np.int8), ((1, 1), (0, 0)))
  turns = np.diff(active, axis=0)
  found = []
  for k, label in enumerate(labels):
    first, past = np.flatnonzero(turns[:, k] == 1), np.flatnonzero(turns[:, k] == -1)
    for start, end in zip(times_ms[first], times_ms[past - 1], strict=True):
      if end - start >= least_ms:
        found.append(Event(label, float(start), float(end)))
  return sorted(found, key=lambda event: event.start)
