"""What a run of the benchmark is told."""

from __future__ import annotations

import dataclasses

from experiments.training.errors import UsageError


@dataclasses.dataclass(frozen=True)
class HearConfig:
  """Settings of `--suite hear`."""

  tasks: str = ""  # folder of the benchmark's task folders, or one of them
  only: tuple[str, ...] = ()  # some of them, by names of the table or of folders; empty: all
  out: str = ""  # folder of embeddings and results; what is finished there is not made again
  grid_points: int = 8  # of the sixteen, those that the public package tries first
  seed: int = 0  # of initial values and dropout
  side_by_side: int = -1  # candidates trained together; 0: all; -1: all, on a CPU one by one

  def check(self) -> None:
    """Raises UsageError for what is missing or cannot be."""
    for name in ("tasks", "out"):
      if not getattr(self, name):
        raise UsageError(f"--hear.{name} is missing: --hear.tasks FOLDER --hear.out FOLDER")
    if self.side_by_side < -1:
      raise UsageError(f"--hear.side_by_side {self.side_by_side}: -1, 0 or a number of candidates")
    if self.seed < 0:
      raise UsageError(f"--hear.seed {self.seed}: 0 or more")
