"""The comparison and its table, on made-up stages."""

import numpy as np
import pytest

from dasheng_jax.errors import WeightsError
from experiments.conversion.parity import TOLERANCE, TOLERANCES, compare, table


@pytest.fixture
def passed():
  """Four stages of one forward pass."""
  draw = np.random.default_rng(0)
  names = ("log_mel", "block_1", "block_2", "output")
  return {name: draw.normal(0, 3, (2, 4, 5)).astype(np.float32) for name in names}


def moved(passed, name, relative):
  """The stages with one number moved by a share of the stage's largest value."""
  x = passed[name].copy()
  x[1, 2, 3] += relative * np.abs(x).max()
  return {**passed, name: x}


def test_equal_stages_agree(passed):
  report = compare(passed, passed)
  assert report.ok
  assert report.first_departure is None
  assert [row.stage for row in report.rows] == list(passed)
  assert all(row.difference == row.relative == 0 for row in report.rows)


@pytest.mark.parametrize("name", ["log_mel", "block_2"])
def test_tolerance_is_a_share_of_the_largest_value(name, passed):
  bound = TOLERANCES.get(name, TOLERANCE)
  assert compare(moved(passed, name, 0.8 * bound), passed).ok
  report = compare(moved(passed, name, 1.2 * bound), passed)
  assert not report.ok
  assert report.first_departure.stage == name
  assert report.first_departure.relative == pytest.approx(1.2 * bound, rel=0.1)


def test_the_first_departure_is_the_first_in_order(passed):
  ours = moved(moved(passed, "output", 0.5), "block_1", 0.01)
  report = compare(ours, passed)
  assert [row.ok for row in report.rows] == [True, False, True, False]
  assert report.first_departure.stage == "block_1"
  assert "first departure: block_1" in table(report)
  assert "FAIL in 2 of 4" in table(report)


def test_a_tolerance_of_ones_own(passed):
  ours = moved(passed, "block_1", 0.01)
  assert compare(ours, passed, tolerance=0.02).ok
  assert not compare(ours, passed, tolerance=0.005).ok


def test_shapes_that_differ_fail(passed):
  theirs = {**passed, "block_2": passed["block_2"].transpose(0, 2, 1)}
  report = compare(passed, theirs)
  assert report.first_departure.stage == "block_2"
  assert "shape 2x4x5 here, 2x5x4 there" in table(report)


@pytest.mark.parametrize("side", ["ours", "theirs"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_fail(side, value, passed):
  """On both sides at once too, where a difference alone would be NaN or nothing."""
  odd = passed["output"].copy()
  odd[0, 0, :2] = value
  bad = {**passed, "output": odd}
  report = compare(*((bad, passed) if side == "ours" else (passed, bad)), tolerance=1e9)
  assert report.first_departure.stage == "output"
  assert f"2 of 40 values of {side} are NaN or infinite" in table(report)
  assert not compare(bad, bad).ok


def test_zeros(passed):
  zeros = {**passed, "block_1": np.zeros_like(passed["block_1"])}
  assert compare(zeros, zeros).ok
  assert compare(passed, zeros).first_departure.stage == "block_1"
  empty = {**passed, "block_1": np.zeros((0, 3), np.float32)}
  assert "no values" in table(compare(empty, empty))


def test_stages_of_one_side_alone_are_listed(passed):
  theirs = {"later": passed["output"], **passed}
  del theirs["log_mel"]
  report = compare(passed, theirs, notes=["made by hand"])
  assert report.ok
  assert report.only_ours == ("log_mel",)
  assert report.only_theirs == ("later",)
  text = table(report)
  assert "not compared (ours alone): log_mel" in text
  assert "not compared (theirs alone): later" in text
  assert text.endswith("note: made by hand")


def test_nothing_in_common_is_an_error(passed):
  with pytest.raises(WeightsError, match="nothing to compare.*holds else.*has log_mel, block_1"):
    compare(passed, {"else": passed["output"]})
  with pytest.raises(WeightsError, match="it holds none"):
    compare(passed, {})


def test_the_table_is_markdown(passed):
  lines = table(compare(passed, passed)).splitlines()
  assert all(line.count("|") == lines[0].count("|") for line in lines[:6])
  assert lines[2].startswith("| log_mel | 2x4x5 | 0.00e+00 |")
  assert lines[-1] == "verdict: ok, all 4 compared stages agree"
