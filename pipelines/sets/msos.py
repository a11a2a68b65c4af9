"""Making Sense of Sounds: nature, human, music, effects or urban (Kroos et al. 2018).

    Logsheet_Development.csv        Category, Event, File
    Development/{category}/         what it lists
    Logsheet_EvaluationMaster.csv   the same of the evaluation part
    Evaluation/                     its files in one folder

A tenth of the development part is split off for validation. Source: the publishers' own pages.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.config import DataConfig
from pipelines.sets.base import TrainingSet, folder_of, one_split, read_table
from pipelines.sets.listed import Clip, Listed, listed_set, nine_tenths
from pipelines.sources import open_source


def msos(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """The published development and evaluation parts."""
  one_split(fold, "msos")
  folder = folder_of(path, "msos", "Development/, Evaluation/ and their Logsheet_*.csv")
  listed = _clips(folder / "Logsheet_Development.csv", in_folders=True)
  train, validation = nine_tenths(listed, cfg)
  heard = open_source(str(folder / "Development"), cfg)
  test = _clips(folder / "Logsheet_EvaluationMaster.csv", in_folders=False)
  parts = {
    "train": Listed(heard, train),
    "validation": Listed(heard, validation),
    "test": Listed(open_source(str(folder / "Evaluation"), cfg), test),
  }
  return listed_set("msos", parts)


def _clips(table: Path, in_folders: bool) -> list[Clip]:
  return [
    Clip(f"{row['Category']}/{row['File']}" if in_folders else row["File"], (row["Category"],))
    for row in read_table(table, ("Category", "File"), "msos")
  ]
