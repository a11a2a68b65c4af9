"""Events to moments and back."""

import numpy as np

from experiments.evaluation.hear.events import events_of, moment_targets
from experiments.evaluation.hear.folder import Event

TIMES = 50.0 * np.arange(20)
RNG = np.random.default_rng(0)


def test_an_event_covers_its_ends():
  events = [Event("a", 100.0, 200.0), Event("b", 125.0, 149.0)]
  found = moment_targets(events, TIMES, ("b", "a"))
  assert np.flatnonzero(found[:, 1]).tolist() == [2, 3, 4]
  assert not found[:, 0].any()


def test_events_survive_the_way_there_and_back():
  events = [Event("a", 100.0, 400.0), Event("b", 300.0, 600.0), Event("a", 700.0, 950.0)]
  there = moment_targets(events, TIMES, ("a", "b"))
  assert events_of(there, TIMES, ("a", "b"), 0, 0) == events
  # a filter over five moments keeps what is as long as that
  assert events_of(there, TIMES, ("a", "b"), 250, 0) == events
  assert events_of(there, TIMES, ("a", "b"), 250, 260) == events[:2]


def test_short_interruptions_are_filtered():
  told = np.zeros((20, 1), np.float32)
  told[3:13], told[7] = 0.9, 0.1
  assert len(events_of(told, TIMES, "a", 0, 0)) == 2
  assert events_of(told, TIMES, "a", 150, 0) == [Event("a", 150.0, 600.0)]


def test_random_probabilities_against_a_plain_loop():
  told = RNG.random((20, 3)).astype(np.float32)
  expected = []
  for k, label in enumerate("xyz"):
    start = None
    for i in range(21):
      on = i < 20 and told[i, k] > 0.5
      if on and start is None:
        start = i
      if not on and start is not None:
        if TIMES[i - 1] - TIMES[start] >= 50:
          expected.append(Event(label, TIMES[start], TIMES[i - 1]))
        start = None
  found = events_of(told, TIMES, "xyz", 0, 50)
  assert sorted(found) == sorted(expected)
  assert [e.start for e in found] == sorted(e.start for e in expected)
