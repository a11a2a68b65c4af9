"""Which clip stands in which row of which step: arithmetic on (seed, step), with no state to save.

A batch row is turned into a clip in three closed-form stages:

  (step, row) -> (lane, place)         order="global" has one lane, "shards" gives rows to lanes
  (lane, place) -> (source, ordinal)   weighted mixing; without weights all sources are one pool
  (lane, ordinal) -> (epoch, clip)     a permutation per epoch, or shards read through, or a draw
                                       by labels (`importance`, `balance`)

Nothing depends on the number of hosts. The hash and the permutation are our own and frozen for
ever: a run of years must resume with the same data although NumPy and TensorFlow change their
random streams between versions. `tests/pipelines/test_order.py` pins their values.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipelines.errors import DataError

MIX_PERIOD = 1024
"""Slots over which weighted mixing has exact counts; a weight is honoured to 1/1024."""
SHARD_LANES = 64
"""Most shards that are read at the same time under order="shards"."""
SHARD_WINDOW = 256
"""Clips among which a lane shuffles while it reads a shard through."""

_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STREAMS = {
  "global": 1,
  "mix": 2,
  "shard": 3,
  "window": 4,
  "crop": 5,
  "substitute": 6,
  "write": 7,
  "importance": 8,
}


class Rows(NamedTuple):
  """Clips of some rows of a step; each field is i64[rows]."""

  position: np.ndarray  # step * batch_size + row, unique over the whole run
  epoch: np.ndarray  # how often this row's pool had been passed through before
  example: np.ndarray  # clip number over all sources together; -1 is padding


def hash64(*words) -> np.ndarray:
  """Hashes integers (scalars or arrays that broadcast, modulo 2^64) to u64 with splitmix64."""
  state = np.zeros((), np.uint64)
  for word in words:
    state = _mix(state ^ (_u64(word) + _GOLDEN))
  return state


def stream(seed: int, name: str) -> np.ndarray:
  """The seed of one named use of randomness, so that no two uses share a stream."""
  return hash64(seed, _STREAMS[name])


def permute(index, size, *key) -> np.ndarray:
  """Maps index to its place in a random permutation of range(size), without building it.

  A Feistel network permutes the next even power of two; values that fall outside are sent through
  again (cycle walking) until they land inside, which keeps it a bijection and takes at most 4 turns
  on average.

  Args:
    index: integers in [0, size), any shape.
    size: integers >= 1, broadcast against index: every element may have its own permutation.
    *key: integers that choose the permutation, broadcast against index.

  Returns:
    i64, the shape of index broadcast with size and key.
  """
  value, limit, seed = np.broadcast_arrays(_u64(index), _u64(size), hash64(*key))
  shape = value.shape
  value, limit, seed = value.ravel().copy(), limit.ravel(), seed.ravel()
  bits = np.frexp((limit - np.uint64(1)).astype(np.float64))[1]
  half = np.maximum(1, (bits + 1) // 2).astype(np.uint64)
  walking = np.arange(value.size)
  while walking.size:
    value[walking] = _feistel(value[walking], half[walking], seed[walking])
    walking = walking[value[walking] >= limit[walking]]
  return value.astype(np.int64).reshape(shape)


def mixing_counts(weights: tuple[float, ...]) -> np.ndarray:
  """Slots of each source in a period: i64[sources], sum MIX_PERIOD, at least one each."""
  if len(weights) > MIX_PERIOD:
    raise DataError(f"data.weights has {len(weights)} entries; at most {MIX_PERIOD} can be mixed")
  share = np.asarray(weights, np.float64) / np.sum(weights) * MIX_PERIOD
  counts = np.maximum(1, np.floor(share).astype(np.int64))
  while (rest := MIX_PERIOD - counts.sum()) != 0:  # largest remainder first; ties by source number
    gap = share - counts
    if rest > 0:
      counts[np.argmax(gap)] += 1
    else:  # many tiny weights were rounded up to one slot
      counts[np.argmin(np.where(counts > 1, gap, np.inf))] -= 1
  return counts


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
  """The order of a data set of `sum(sizes)` clips.

  Attributes:
    sizes: clips of each source, all >= 1.
    weights: mixing weights, or () to join the sources into one pool.
    shards: for order="shards", the clips of each shard of each source; they sum to sizes.
    seed: any integer.
    draw: for the orders that go by labels: epoch -> the clips of that epoch, integers [drawn], in
      their order.
    drawn: how many these are; 0 without `draw`.
  """

  sizes: tuple[int, ...]
  weights: tuple[float, ...] = ()
  shards: tuple[np.ndarray, ...] | None = None
  seed: int = 0
  draw: Callable[[int], np.ndarray] | None = None
  drawn: int = 0

  def rows(self, step: int, batch_size: int, start: int = 0, stop: int | None = None) -> Rows:
    """Clips of rows [start, stop) of a global step."""
    row = np.arange(start, batch_size if stop is None else stop, dtype=np.int64)
    lanes = self.lanes(batch_size)
    share = batch_size // lanes
    lane, place = row // share, step * share + row % share
    epoch, example = np.empty_like(row), np.empty_like(row)
    pool, ordinal = self._mix(lane, place)
    for p in np.unique(pool):
      here = pool == p
      epoch[here], example[here] = self._locate(int(p), lanes, lane[here], ordinal[here])
    return Rows(step * batch_size + row, epoch, example)

  def lanes(self, batch_size: int) -> int:
    """Shards read side by side: the largest divisor of the batch size within the limits."""
    if self.shards is None:
      return 1
    most = min(SHARD_LANES, batch_size, *(len(sizes) for sizes, _ in self._pools))
    return next(n for n in range(most, 0, -1) if batch_size % n == 0)

  @functools.cached_property
  def _pools(self) -> list[tuple[np.ndarray, int]]:
    """Per pool: (clips of each shard, number of its first clip)."""
    shards = self.shards or tuple(np.array([n]) for n in self.sizes)
    if not self.weights:
      return [(np.concatenate(shards).astype(np.int64), 0)]
    first = np.cumsum([0, *self.sizes])
    return [(np.asarray(s, np.int64), int(f)) for s, f in zip(shards, first, strict=False)]

  @functools.cached_property
  def _slots(self) -> np.ndarray:
    return np.cumsum([0, *mixing_counts(self.weights)])

  def _mix(self, lane: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not self.weights:
      return np.zeros_like(place), place
    period, slot = np.divmod(place, MIX_PERIOD)
    slot = permute(slot, MIX_PERIOD, stream(self.seed, "mix"), lane, period)
    pool = np.searchsorted(self._slots, slot, side="right") - 1
    count = np.diff(self._slots)[pool]
    return pool, period * count + slot - self._slots[pool]

  @property
  def clips_per_epoch(self) -> int:
    """Clips after which all pools together have been passed through once."""
    return self.drawn or sum(self.sizes)

  def _locate(self, pool: int, lanes: int, lane: np.ndarray, ordinal: np.ndarray):
    if self.draw is not None:
      return self._from_draws(ordinal)
    sizes, first = self._pools[pool]
    if self.shards is None:
      total = int(sizes.sum())
      epoch, index = np.divmod(ordinal, total)
      return epoch, first + permute(index, total, stream(self.seed, "global"), pool, epoch)
    return self._read_through(pool, lanes, lane, ordinal)

  def _from_draws(self, ordinal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    epoch, index = np.divmod(ordinal, self.drawn)
    example = np.empty_like(ordinal)
    for e in np.unique(epoch):
      here = epoch == e
      example[here] = self._drawn_in(int(e))[index[here]]
    return epoch, example

  def _drawn_in(self, epoch: int) -> np.ndarray:
    """The clips of an epoch; the last two are kept, because batches straddle their border."""
    cache = self.__dict__.setdefault("_draws", {})
    clips = cache.get(epoch)  # one look-up: another thread may clear the cache meanwhile
    if clips is None:
      assert self.draw is not None
      clips = self.draw(epoch)
      if len(cache) > 1:
        cache.clear()
      cache[epoch] = clips
    return clips

  def _read_through(self, pool: int, lanes: int, lane: np.ndarray, ordinal: np.ndarray):
    """Each epoch, the permuted shards form one line, cut into `lanes` stretches.

    Stretches of the rounded-down share would lose clips each epoch. Instead, before epoch e, lane l
    has read floor((e*n + l) / lanes) clips, which sums to exactly e*n over the lanes (Hermite's
    identity), so every clip comes once per epoch for any n.
    """
    sizes, first = self._pools[pool]
    total = int(sizes.sum())
    epoch = ((ordinal + 1) * lanes - lane - 1) // total
    whole, part = np.divmod(epoch * total, lanes)
    whole_next, part_next = np.divmod((epoch + 1) * total, lanes)
    read = whole + (part + lane >= lanes)
    length = whole_next + (part_next + lane >= lanes) - read
    begin = (whole_next - whole) * lane + _carries(lane, part_next, lanes)
    begin -= _carries(lane, part, lanes)
    offset = ordinal - read
    window = offset // SHARD_WINDOW
    width = np.minimum(SHARD_WINDOW, length - window * SHARD_WINDOW)
    key = (stream(self.seed, "window"), pool, epoch, lane, window)
    place = begin + window * SHARD_WINDOW + permute(offset % SHARD_WINDOW, width, *key)
    example = np.empty_like(place)
    for e in np.unique(epoch):
      here = epoch == e
      starts, ends = self._shard_line(pool, int(e))
      shard = np.searchsorted(ends, place[here], side="right")
      before = np.where(shard > 0, ends[shard - 1], 0)
      example[here] = first + starts[shard] + place[here] - before
    return epoch, example

  def _shard_line(self, pool: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The shards in the order of an epoch: first clip of each, and where each ends in the line."""
    cache = self.__dict__.setdefault("_lines", {})
    line = cache.get((pool, epoch))  # one look-up: another thread may clear the cache meanwhile
    if line is None:
      sizes, _ = self._pools[pool]
      turn = permute(np.arange(sizes.size), sizes.size, stream(self.seed, "shard"), pool, epoch)
      line = (np.cumsum(sizes) - sizes)[turn], np.cumsum(sizes[turn])
      if len(cache) > 4 * len(self._pools):  # lanes are at most one epoch apart
        cache.clear()
      cache[pool, epoch] = line
    return line


def host_rows(batch_size: int, host_index: int, host_count: int) -> tuple[int, int]:
  """Rows [start, stop) of the global batch that a host prepares."""
  if batch_size < 1:
    raise DataError(f"batch size {batch_size} is not positive; give at least 1")
  if not 0 <= host_index < host_count:
    raise DataError(f"host {host_index} is not one of {host_count} hosts; count them from 0")
  if batch_size % host_count:
    low = batch_size // host_count * host_count
    near = " or ".join(str(n) for n in (low, low + host_count) if n)
    raise DataError(f"batch size {batch_size} is not divisible by {host_count} hosts; try {near}")
  share = batch_size // host_count
  return host_index * share, (host_index + 1) * share


def _carries(lane: np.ndarray, part: np.ndarray, lanes: int) -> np.ndarray:
  """How many of the lanes below `lane` read one clip more than the whole share."""
  return np.maximum(0, lane - (lanes - part))


def _feistel(value: np.ndarray, half: np.ndarray, seed: np.ndarray) -> np.ndarray:
  mask = (np.uint64(1) << half) - np.uint64(1)
  left, right = value >> half, value & mask
  for turn in range(_ROUNDS):
    key = seed + _u64(turn) * _GOLDEN
    left, right = right, left ^ (_mix(right + key) & mask)
  return (left << half) | right


def _mix(x: np.ndarray) -> np.ndarray:
  """The finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable generators, 2014)."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def _u64(x) -> np.ndarray:
  """Integers modulo 2^64, never as scalars: those would warn about the overflow we want."""
  if isinstance(x, int):
    x = np.array([x & 0xFFFFFFFFFFFFFFFF], np.uint64)
    return x
  x = np.asarray(x)
  return np.atleast_1d(x if x.dtype == np.uint64 else x.astype(np.int64).view(np.uint64))
