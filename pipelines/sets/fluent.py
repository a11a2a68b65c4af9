"""Fluent Speech Commands: what a speaker wants of a device (Lugosch et al. 2019).

    data/{train,valid,test}_data.csv   path, action, object, location and more
    wavs/speakers/                     what they list, as wavs/speakers/SPEAKER/NAME.wav

A class is an intent: action, object and location together, of which there are 31. Source: the
publishers' own pages.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.config import DataConfig
from pipelines.sets.base import TrainingSet, folder_of, one_split, read_table
from pipelines.sets.listed import Clip, Listed, listed_set
from pipelines.sources import open_source

_INTENT = ("action", "object", "location")
_PARTS = {"train": "train", "validation": "valid", "test": "test"}


def fluent_speech_commands(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """The published split."""
  name = "fluent_speech_commands"
  one_split(fold, name)
  folder = folder_of(path, name, "data/ and wavs/")
  source = open_source(str(folder / "wavs"), cfg)
  parts = {
    part: Listed(source, _clips(folder / "data" / f"{theirs}_data.csv", name))
    for part, theirs in _PARTS.items()
  }
  return listed_set(name, parts)


def _clips(table: Path, name: str) -> list[Clip]:
  return [
    Clip(row["path"].removeprefix("wavs/"), (" ".join(row[slot].strip() for slot in _INTENT),))
    for row in read_table(table, ("path", *_INTENT), name)
  ]
