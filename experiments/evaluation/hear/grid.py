"""The hyper-parameters of the benchmark's predictor as one table, and the points that are tried.

Source: `heareval` 2021.1.3. Of the sixteen points it tries eight, which are the same ones in every
task: the order is Python's generator's, seeded with 42.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Literal, NamedTuple

from experiments.training.errors import UsageError

Initial = Literal["uniform", "normal"]
DRAW_SEED = 42


class Point(NamedTuple):
  """What differs from one candidate to the next.

  initial: the distribution of Glorot and Bengio (2010) that weights are drawn from.
  """

  hidden_layers: int
  initial: Initial
  learning_rate: float


@dataclasses.dataclass(frozen=True)
class Grid:
  """What candidates share, and the values that they combine.

  Attributes:
    hidden: width of every hidden layer: linear, batch norm, dropout, ReLU.
    dropout: share that is set to zero.
    batch_size: the last batch of an epoch is what is left.
    check_every: epochs from one look at the validation part to the next.
    patience: looks without a better score after which a candidate is stopped.
    max_epochs: of training.
  """

  hidden_layers: tuple[int, ...] = (1, 2)
  initial: tuple[Initial, ...] = ("uniform", "normal")
  learning_rates: tuple[float, ...] = (3.2e-3, 1e-3, 3.2e-4, 1e-4)
  hidden: int = 1024
  dropout: float = 0.1
  batch_size: int = 1024
  check_every: int = 3
  patience: int = 20
  max_epochs: int = 500

  @property
  def points(self) -> tuple[Point, ...]:
    """Every combination, the learning rate changing fastest."""
    axes = (self.hidden_layers, self.initial, self.learning_rates)
    return tuple(Point(*values) for values in itertools.product(*axes))

  @property
  def looks(self) -> int:
    """At the validation part, at most."""
    return self.max_epochs // self.check_every

  def drawn(self, count: int) -> tuple[Point, ...]:
    """The first points of the shuffled grid. Raises UsageError for more or fewer than there are."""
    points = list(self.points)
    if not 1 <= count <= len(points):
      raise UsageError(f"--hear.grid_points {count}: the grid has {len(points)}; draw 1 or more")
    random.Random(DRAW_SEED).shuffle(points)
    return tuple(points[:count])


# Scoring events takes long, so that is done more rarely. Folders may say more (`folder.py`).
TASK_GRIDS: dict[str, dict[str, int]] = {"dcase2016_task2": {"check_every": 10}}
