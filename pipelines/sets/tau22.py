"""TAU Urban Acoustic Scenes 2022 Mobile (DCASE 2022 and 2023, task 1): ten scenes, nine devices.

Layout: see `pipelines.sets.tau`; recordings of ten seconds, cut into pieces of one second that are
numbered from 0. `tau22_joined` trains on windows at any place of these recordings (the paper's
shifted crops). Source: reference text of the scene models, sections 5.3 and 9; Morocutti et al.
2023.
"""

from __future__ import annotations

import dataclasses

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.sets.base import TrainingSet
from pipelines.sets.tau import parse_name, tau_set
from pipelines.sources.joined import JoinedSource


def tau22(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """The published split, clip by clip; clips stand in the order of meta.csv."""
  return tau_set(path, cfg, fold, name="tau22", pieces=True)


def tau22_joined(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """The same, but clips of the training part reach into the pieces beside theirs.

  Each epoch has one window for each piece, whose middle lies in the piece at a place drawn from
  (seed, epoch, piece); ids, labels and stored logits are the piece's.
  """
  if cfg.crop != "single":
    raise DataError(
      f"tau22_joined: one window is drawn for each piece, with --data.crop single, not {cfg.crop}; "
      "tau22 has the pieces themselves"
    )
  found = tau22(path, cfg, fold)
  (pieces,) = found.part("train")
  names = [parse_name(str(name)) for name in pieces.ids]
  recordings = [f"{name.recording}-{name.device}" for name in names if name]
  numbers = [name.piece for name in names if name]
  train = JoinedSource(pieces, recordings, numbers, cfg.crop_seconds, "tau22_joined train")
  return dataclasses.replace(found, name="tau22_joined", parts={**found.parts, "train": (train,)})
