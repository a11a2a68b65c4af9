"""Weights from label frequencies, and epochs drawn by them."""

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.importance import label_weights, weighted_draw
from tests.mobile_jax.fixtures import golden


def test_weights_are_the_recorded_ones():
  recorded = golden("mobile_training")
  ours = label_weights(recorded["sampler/labels"])
  np.testing.assert_allclose(ours, recorded["sampler/weights_sum_offset100"], rtol=1e-6)


def test_rare_clips_come_often_and_no_clip_twice():
  weights = np.array([8.0, 4.0, 2.0, 1.0, 1.0, 0.0])
  draws = np.array([weighted_draw(weights, 2, 7, epoch) for epoch in range(2000)])
  assert all(a != b for a, b in draws)
  first = np.bincount(draws[:, 0], minlength=6) / len(draws)
  np.testing.assert_allclose(first, weights / 16, atol=0.04)
  second = np.bincount(draws[draws[:, 0] == 0, 1], minlength=6)
  np.testing.assert_allclose(second / second.sum(), [0, 1 / 2, 1 / 4, 1 / 8, 1 / 8, 0], atol=0.04)


def test_a_draw_is_a_function_of_seed_and_epoch():
  weights = np.linspace(0.1, 1, 50)
  once = weighted_draw(weights, 50, 7, 3)
  assert sorted(once) == list(range(50))
  assert (once == weighted_draw(weights, 50, 7, 3)).all()
  assert (once[:20] == weighted_draw(weights, 20, 7, 3)).all()
  assert not (once == weighted_draw(weights, 50, 8, 3)).all()
  assert not (once == weighted_draw(weights, 50, 7, 4)).all()
  assert len(weighted_draw(weights, 0, 7, 3)) == 0


def test_draws_are_frozen():
  """A run of years must resume with the same clips."""
  assert weighted_draw(np.arange(1.0, 9.0), 5, 42, 0).tolist() == [7, 3, 4, 0, 5]


def test_what_cannot_be_drawn_is_said():
  with pytest.raises(DataError, match=r"3 clips per epoch .* only 2 have"):
    weighted_draw(np.array([1.0, 0.0, 2.0]), 3, 0, 0)
  with pytest.raises(DataError, match="finite and at least 0"):
    weighted_draw(np.array([1.0, -1.0]), 1, 0, 0)
