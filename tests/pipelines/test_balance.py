"""The label-balanced sampler: recorded draws, what it balances, any epoch from its number."""

import json

import numpy as np
import pytest

from pipelines.balance import Balanced, clips_by_class
from pipelines.errors import DataError
from pipelines.order import Order

# Clips 0 to 5; class 1 has the clips 1 and 4, class 3 nobody.
LABELS = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0] * 4])


def lists_of(labels, part=1 << 16):
  return clips_by_class(lambda rows: labels[rows], len(labels), part)


@pytest.fixture(scope="module")
def recorded(shared):
  path = shared / "fixtures" / "tagging" / "balanced_sampler.json"
  if not path.is_file():
    pytest.skip(f"needs the recorded draws in {shared.name}/fixtures/tagging")
  return json.loads(path.read_text())


def test_draws_are_the_recorded_ones(recorded):
  labels = np.zeros((len(recorded["labels"]), recorded["num_classes"]), int)
  for row, classes in zip(labels, recorded["labels"], strict=True):
    row[classes] = 1
  want = recorded["indices"]
  assert len(want) > 2 * len(labels)  # lists are used up, and epochs end within a round
  draws = Balanced(lists_of(labels, part=50), len(labels), recorded["random_state"])
  ours = np.concatenate([draws(epoch) for epoch in range(3)])
  assert ours[: len(want)].tolist() == want


def test_clips_stand_by_class():
  clips, classes = lists_of(LABELS, part=4)
  assert clips.tolist() == [0, 2, 3, 1, 4, 2, 4]
  assert classes.tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_every_class_comes_equally_often():
  draws = np.concatenate([Balanced(lists_of(LABELS), 6, 1)(epoch) for epoch in range(4)])
  rounds = draws.reshape(-1, 3)
  # A round has a clip of each class that anybody carries; clip 5 carries none.
  assert all(LABELS[row][:, :3].sum(axis=0).min() >= 1 for row in rounds)
  counts = np.bincount(draws, minlength=6)
  assert counts[5] == 0
  # Eight rounds: class 0 has gone through its three clips two times, and begun a third.
  assert min(counts[:4]) >= 2
  assert len({tuple(row) for row in rounds}) > 3


def test_an_epoch_is_the_same_however_it_is_reached():
  whole = Balanced(lists_of(LABELS), 5, -7)
  epochs = [whole(epoch).tolist() for epoch in range(9)]
  for start in (8, 3):
    fresh = Balanced(lists_of(LABELS), 5, -7)
    assert [fresh(epoch).tolist() for epoch in range(start, 9)] == epochs[start:]
    assert fresh(1).tolist() == epochs[1]  # backwards, beyond what is kept
    assert fresh(6).tolist() == epochs[6]
  other = Balanced(lists_of(LABELS), 5, 8)
  assert [other(epoch).tolist() for epoch in range(9)] != epochs


def test_steps_of_an_order_are_the_draws_in_a_row():
  draws = Balanced(lists_of(LABELS), 5, 3)
  want = np.concatenate([Balanced(lists_of(LABELS), 5, 3)(epoch) for epoch in range(5)])
  order = Order((6,), seed=3, draw=draws, drawn=5)
  rows = [order.rows(step, 4) for step in (0, 4, 1, 3, 2, 5)]
  for found, step in zip(rows, (0, 4, 1, 3, 2, 5), strict=True):
    assert found.example.tolist() == want[4 * step : 4 * step + 4].tolist()
  assert rows[2].epoch.tolist() == [0, 1, 1, 1]


def test_draws_are_frozen():
  """A run of years must resume with the same clips."""
  assert Balanced(lists_of(LABELS), 8, 42)(1).tolist() == [4, 2, 4, 2, 0, 1, 4, 2]


def test_what_cannot_be_drawn_is_said():
  with pytest.raises(DataError, match="no clip has a label"):
    Balanced(lists_of(np.zeros((3, 2), int)), 3, 0)
  with pytest.raises(DataError, match="give at least 1"):
    Balanced(lists_of(LABELS), 0, 0)
