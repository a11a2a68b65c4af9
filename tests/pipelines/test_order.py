import itertools

import numpy as np
import pytest

from pipelines import order
from pipelines.errors import DataError
from pipelines.order import MIX_PERIOD, Order, host_rows, mixing_counts, permute


def test_hash_and_permutation_are_frozen():
  # These values may never change: resuming an old run depends on them.
  assert order.hash64(1, 2, 3)[0] == 12799061345140080112
  assert order.hash64(-1)[0] == order.hash64(2**64 - 1)[0] == 16490336266968443936
  assert permute(np.arange(10), 10, 0, 0).tolist() == [8, 9, 3, 7, 6, 2, 1, 4, 0, 5]
  assert Order((50,), seed=7).rows(3, 4).example.tolist() == [37, 8, 6, 24]
  shards = (np.array([20, 30]),)
  assert Order((50,), shards=shards, seed=7).rows(3, 4).example.tolist() == [44, 28, 7, 45]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 255, 256, 257, 1000])
def test_permute_is_a_bijection(size):
  assert sorted(permute(np.arange(size), size, 3, 4)) == list(range(size))


def test_permute_takes_a_size_and_a_key_per_element():
  index, size, key = np.array([0, 1, 2, 6]), np.array([1, 5, 100, 7]), np.array([3, 4, 5, 6])
  one_by_one = [int(permute(*args)[0]) for args in zip(index, size, key, strict=True)]
  assert permute(index, size, key).tolist() == one_by_one


def test_permute_is_uniform_over_keys():
  # 6,000 draws over 6 places: 1,000 each, standard deviation 29
  first = permute(np.zeros(6000, np.int64), 6, np.arange(6000))
  assert np.abs(np.bincount(first, minlength=6) - 1000).max() < 150
  pairs = permute(np.tile([0, 1], 6000), 3, np.repeat(np.arange(6000), 2)).reshape(-1, 2)
  counts = np.bincount(pairs @ [3, 1], minlength=9)
  assert sorted(counts)[:3] == [0, 0, 0]
  assert np.abs(np.sort(counts)[3:] - 1000).max() < 150


def test_permute_handles_sets_beyond_memory():
  places = permute(np.arange(1000), 10**12, 1)
  assert len(set(places.tolist())) == 1000
  assert places.max() > 9 * 10**11


@pytest.mark.parametrize("batch_size", [1, 8, 30])
def test_global_order_shows_every_clip_once_per_epoch(batch_size):
  plan = Order((40, 17), seed=5)
  epochs = _by_epoch(plan, batch_size, 3 * 57 // batch_size + 1)
  for epoch in range(3):
    assert sorted(epochs[epoch]) == list(range(57))
  assert epochs[0] != epochs[1]


@pytest.mark.parametrize("batch_size", [4, 6, 20])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_shard_order_shows_every_clip_once_per_epoch(batch_size, seed):
  shards = (np.array([10, 30, 61]), np.array([17, 20, 1, 1]))
  plan = Order((101, 39), shards=shards, seed=seed)
  epochs = _by_epoch(plan, batch_size, 4 * 140 // batch_size)  # lanes are an epoch apart at most
  for epoch in range(3):
    assert sorted(epochs[epoch]) == list(range(140))


def test_shard_order_reads_shards_through(monkeypatch):
  monkeypatch.setattr(order, "SHARD_WINDOW", 8)
  sizes = np.full(8, 100)
  plan = Order((800,), shards=(sizes,), seed=1)
  assert plan.lanes(8) == 8
  rows = np.stack([plan.rows(s, 8).example for s in range(100)])
  for lane in rows.T:  # 100 clips per lane: pieces of few shards, in order up to the window
    changes = np.count_nonzero(np.diff(lane // 100))
    assert changes <= 1 + 2 * 8
    inside = np.split(lane, np.flatnonzero(np.diff(lane // 100)) + 1)
    longest = max(inside, key=len)
    assert np.all(np.abs(longest - np.sort(longest)) < 2 * 8)
  assert not np.array_equal(rows[:, 0], np.sort(rows[:, 0]))


def test_shard_order_gives_hosts_shards_of_their_own():
  plan = Order((200,), shards=(np.full(8, 25),), seed=1)
  first = np.concatenate([plan.rows(s, 8, 0, 4).example for s in range(25)])
  second = np.concatenate([plan.rows(s, 8, 4, 8).example for s in range(25)])
  assert set(first // 25).isdisjoint(second // 25)


def test_mixing_has_exact_counts_per_period():
  plan = Order((100, 1000), weights=(3.0, 1.0), seed=2)
  drawn = np.concatenate([plan.rows(s, 128).example for s in range(MIX_PERIOD // 128)])
  assert np.count_nonzero(drawn < 100) == MIX_PERIOD * 3 // 4
  # each source runs through its own epochs: 768 draws of 100 clips are 7 or 8 of each
  assert set(np.bincount(drawn[drawn < 100])) == {7, 8}


def test_mixing_with_shards_runs_through_each_source():
  shards = (np.array([10, 30]), np.array([17, 20]))
  plan = Order((40, 37), weights=(1.0, 1.0), shards=shards, seed=2)
  rows = [plan.rows(s, 512) for s in range(4 * MIX_PERIOD // 512)]
  example = np.concatenate([r.example for r in rows])
  epoch = np.concatenate([r.epoch for r in rows])
  for e in (3, 25):  # the second goes over the end of the first period of both lanes
    first = example[(epoch == e) & (example < 40)]
    assert sorted(first) == list(range(40))


@pytest.mark.parametrize("weights", [(1, 1), (1, 2, 3), (1e-9, 1), (0.1,) * 7, (5,)])
def test_mixing_counts_fill_the_period(weights):
  counts = mixing_counts(tuple(map(float, weights)))
  assert counts.sum() == MIX_PERIOD
  assert counts.min() >= 1
  share = np.array(weights) / sum(weights) * MIX_PERIOD
  assert np.all(np.abs(counts - share) <= 1)


@pytest.mark.parametrize("kind", ["global", "shards"])
@pytest.mark.parametrize("weights", [(), (2.0, 1.0)])
def test_rows_do_not_depend_on_who_asks(kind, weights):
  shards = (np.array([10, 30, 60]), np.array([17, 20])) if kind == "shards" else None
  whole = Order((100, 37), weights, shards, seed=9)
  for step in (0, 3, 10_000_000):
    full = whole.rows(step, 12)
    for hosts in (1, 2, 3, 4):
      fresh = Order((100, 37), weights, shards, seed=9)
      parts = [fresh.rows(step, 12, *host_rows(12, h, hosts)) for h in range(hosts)]
      for field in range(3):
        assert np.array_equal(np.concatenate([p[field] for p in parts]), full[field])


def test_seeds_differ():
  orders = [Order((1000,), seed=s).rows(0, 50).example.tolist() for s in (0, 1, -1, 2**63)]
  assert all(a != b for a, b in itertools.combinations(orders, 2))


def test_batch_that_hosts_cannot_share():
  assert host_rows(8, 1, 2) == (4, 8)
  with pytest.raises(DataError, match=r"250 is not divisible by 8 hosts; try 248 or 256"):
    host_rows(250, 0, 8)
  with pytest.raises(DataError, match="3 is not divisible by 4 hosts; try 4$"):
    host_rows(3, 0, 4)
  with pytest.raises(DataError, match="not one of 2 hosts"):
    host_rows(8, 2, 2)


def _by_epoch(plan: Order, batch_size: int, steps: int) -> dict[int, list[int]]:
  epochs: dict[int, list[int]] = {}
  for step in range(steps):
    rows = plan.rows(step, batch_size)
    for e, x in zip(rows.epoch.tolist(), rows.example.tolist(), strict=True):
      epochs.setdefault(e, []).append(x)
  return epochs
