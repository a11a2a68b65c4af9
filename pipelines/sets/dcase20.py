"""TAU Urban Acoustic Scenes 2020 Mobile (DCASE 2020, task 1A): ten scenes, several devices.

Layout: see `pipelines.sets.tau`; recordings of ten seconds, whole. Source: reference text of MN and
DyMN, sections 10.3 and 11.
"""

from __future__ import annotations

from pipelines.config import DataConfig
from pipelines.sets.base import TrainingSet
from pipelines.sets.tau import tau_set


def dcase20(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """The published split; it has one fold."""
  return tau_set(path, cfg, fold, name="dcase20", pieces=False)
