"""Scores as percent of the best system of the challenge, and their means by group.

As in the embedding study (Schmid et al. 2023): each task's score over the highest of the challenge,
means over tasks, all tasks counting equally. Its table II and figures follow from the leaderboard
and `tasks.py`, checked in the tests. A task without a known best is left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from experiments.evaluation.hear.tasks import GROUPS, TASKS

ALL = "all"


class Mean(NamedTuple):
  """Percent of the best over `tasks` of the `of` tasks that a group has; None without any."""

  percent: float | None
  tasks: int
  of: int

  def cell(self) -> str:
    """For a table: how many are missing shows."""
    shown = "-" if self.percent is None else f"{self.percent:.2f}"
    return shown if self.tasks == self.of else f"{shown} ({self.tasks} of {self.of})"


def percent_of_best(key: str, score: float) -> float | None:
  """100 for the best of the challenge; None for a task whose best is unknown."""
  best = TASKS[key].best if key in TASKS else None
  return None if best is None else 100 * score / best


def group_means(scores: Mapping[str, float]) -> dict[str, Mean]:
  """{group: mean} of all groups and of all tasks, from {task: its first score}."""
  found = {key: percent_of_best(key, score) for key, score in scores.items()}
  means = {}
  for group in (*GROUPS, ALL):
    members = [key for key, task in TASKS.items() if group in (task.group, ALL)]
    there = [p for key in members if (p := found.get(key)) is not None]
    means[group] = Mean(sum(there) / len(there) if there else None, len(there), len(members))
  return means
