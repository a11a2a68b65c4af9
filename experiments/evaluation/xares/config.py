"""What the suite xares alone is told."""

from __future__ import annotations

import dataclasses
from typing import Literal

from experiments.training.errors import UsageError

Scaling = Literal["released", "cosine"]


@dataclasses.dataclass(frozen=True)
class XaresConfig:
  """Settings of `--suite xares`."""

  seeds: int = 1  # heads for each round, whose scores are averaged; the package trains one
  knn: Scaling = "released"  # cosine normalises every training embedding, not every feature
  work: str = ""  # a folder that keeps embeddings and scores: the same command goes on there
  batch_seconds: float = 80.0  # audio that goes through an encoder side by side

  def check(self) -> None:
    """Raises UsageError for what cannot be."""
    if self.seeds < 1:
      raise UsageError(f"--xares.seeds {self.seeds}: give at least 1")
    if not self.batch_seconds > 0:
      raise UsageError(f"--xares.batch_seconds {self.batch_seconds:g}: give seconds, more than 0")
