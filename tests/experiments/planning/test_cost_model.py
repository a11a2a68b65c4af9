import pytest

from experiments.planning.chips import chip
from experiments.planning.collectives import Traffic
from experiments.planning.cost_model import balanced_clips, least_traffic, speed, step_time

V5E = chip("v5e")
RING = Traffic("all-gather", 16, 1, 1, 20e9, 0.0)
NETWORK = Traffic("all-reduce", 2, 2, 1, 0.0, 3.125e9)


def test_each_part_runs_at_its_own_rate():
  time = step_time(V5E, 197e12, 819e9 / 2, [RING])
  assert (time.compute, time.memory, time.links, time.ring, time.outer) == (1, 0.5, 0.1, 0.2, 0)
  assert time.together == 1
  assert time.apart == pytest.approx(1.2)
  assert time.limit == "compute"


def test_the_network_between_slices_is_slow():
  time = step_time(V5E, 197e11, 0, [RING, NETWORK])
  assert time.outer == pytest.approx(1)
  assert time.together == pytest.approx(1)
  assert time.limit == "network"
  # Not published per chip for v4, so it is not made up.
  assert step_time(chip("v4"), 1, 0, [NETWORK]).outer is None


def test_speed_of_a_whole_run():
  rate = speed(0.5, 256, 515e9, V5E, 16, 384e6)
  assert rate.clips_per_second == 512
  assert rate.mfu == pytest.approx(512 * 515e9 / (16 * 197e12))
  assert rate.hours == pytest.approx(384e6 / 512 / 3600)
  assert rate.chip_hours == pytest.approx(16 * rate.hours)


def test_more_clips_outlast_the_same_messages():
  time = step_time(V5E, 197e12 / 10, 0, [RING])
  assert balanced_clips(time, 4) == 8
  assert balanced_clips(time, 4, one_ring=False) == 4


def test_least_traffic_grows_with_what_is_kept():
  assert least_traffic(100, 2, 1000, 50, 0, 4) == 2000 + 200 + 100
  assert least_traffic(100, 2, 1000, 50, 4, 4) == 2000 + 200 + 100 + 800
