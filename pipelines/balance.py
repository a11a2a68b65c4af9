"""Drawing every class equally often: the label-balanced sampler of the weakly supervised taggers.

    labels -> for each class the clips that carry it, shuffled
    round  -> every class once, in a new random order -> the next clip of its list; a list that is
              used up is shuffled again

A clip with several labels is in several lists. Source: reference text of the weakly supervised
taggers, section 3. All shuffles are those of one `numpy.random.RandomState`, whose stream NumPy has
frozen, in the order that the text gives; so draws are the recorded ones bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from pipelines.errors import DataError

_AT_ONCE = 64  # rounds
_KEPT = 3  # epochs that stay; batches straddle borders, and readers are not in step


class Balanced:
  """Draws of each epoch, as a function of (clips, seed, epoch): call it with the number of one.

  The draws of all epochs are one sequence, cut into pieces of `count`, so that a list goes on from
  epoch to epoch. An epoch is reached by playing the rounds before it, from the last epoch that was
  asked for if that was an earlier one, else from the seed: a run that goes on needs nothing saved.

  Args:
    lists: (clips of all classes one class after the other i64[labels], classes of these, sorted
      i64[labels]), such as `clips_by_class` gives.
    count: draws of an epoch.
    seed: any integer; RandomState takes its lower 32 bits.

  Raises:
    DataError: no clip has a class.
  """

  def __init__(self, lists: tuple[np.ndarray, np.ndarray], count: int, seed: int):
    clips, classes = lists
    if not len(clips):
      raise DataError("data.order 'balanced' draws clips of every class, and no clip has a label")
    if count < 1:
      raise DataError(f"{count} clips per epoch are to be drawn; give at least 1")
    # Four bytes for each label, twice: an AudioSet of two million clips has four million.
    self._lists = clips.astype(np.int32)
    # Classes that nobody carries have no list.
    self._sizes = np.unique(classes, return_counts=True)[1].astype(np.int64)
    self._count, self._seed = count, seed
    self._lock = threading.Lock()
    self._drawn: dict[int, np.ndarray] = {}
    self._begin()

  def __call__(self, epoch: int) -> np.ndarray:
    """The clips i32[count] of an epoch, from 0, in drawn order."""
    with self._lock:
      if (found := self._drawn.get(epoch)) is not None:
        return found
      if epoch < self._epoch:
        self._begin()
      while self._epoch <= epoch:
        draws = self._next_epoch()
        self._drawn[self._epoch] = draws
        self._drawn.pop(self._epoch - _KEPT, None)
        self._epoch += 1
      return draws

  def _begin(self) -> None:
    self._random = np.random.RandomState(self._seed & 0xFFFFFFFF)
    self._deck = self._lists.copy()
    self._ends = np.cumsum(self._sizes)
    self._next = self._ends - self._sizes  # of each class, the place of its next clip
    self._rest = np.empty(0, np.int32)  # of the round that the last epoch ended in
    self._epoch = 0
    self._drawn.clear()
    for k in range(len(self._sizes)):
      self._shuffle(k)

  def _shuffle(self, k: int) -> None:
    first = self._ends[k] - self._sizes[k]
    self._random.shuffle(self._deck[first : self._ends[k]])
    self._next[k] = first

  def _next_epoch(self) -> np.ndarray:
    parts, left = [self._rest], self._count - len(self._rest)
    while left > 0:
      parts.append(self._rounds(-(-left // len(self._sizes))))
      left -= len(parts[-1])
    drawn = np.concatenate(parts)
    self._rest = drawn[self._count :].copy()
    return drawn[: self._count]

  def _rounds(self, wanted: int) -> np.ndarray:
    """The draws of some rounds at once: at most until the first list is used up."""
    rounds = min(wanted, int(np.min(self._ends - self._next)), _AT_ONCE)
    turns = np.stack([self._random.permutation(len(self._sizes)) for _ in range(rounds)])
    drawn = self._deck[self._next[turns] + np.arange(rounds)[:, None]]
    self._next += rounds
    # In the order of the last round's turns; between the turns of a round nothing else is random.
    for k in turns[-1, (self._next == self._ends)[turns[-1]]].tolist():
      self._shuffle(k)
    return drawn.ravel()


def clips_by_class(
  marked: Callable[[np.ndarray], np.ndarray], clips: int, part: int = 1 << 16
) -> tuple[np.ndarray, np.ndarray]:
  """(clips, classes) of every label, by class and then by clip: i64[labels] each.

  marked: clip numbers i64[b] -> 0 or 1 for each class, [b, classes]; asked for in parts, because
  all of them would not fit in memory.
  """
  found = []
  for first in range(0, clips, part):
    rows, classes = np.nonzero(marked(np.arange(first, min(first + part, clips))))
    found.append((rows + first, classes))
  rows, classes = (np.concatenate([pair[i] for pair in found]) for i in range(2))
  by_class = np.argsort(classes, kind="stable")
  return rows[by_class], classes[by_class]
