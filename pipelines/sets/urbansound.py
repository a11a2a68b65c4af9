"""UrbanSound8K: ten classes of urban sounds, ten folds, one of them left out (Salamon et al. 2014).

    metadata/UrbanSound8K.csv   slice_file_name, fold, classID, class and more
    audio/fold1/ ... fold10/    what it lists

Classes stand in the order of classID. Source: the publishers' own pages.
"""

from __future__ import annotations

from pipelines.config import DataConfig
from pipelines.sets.base import TrainingSet, folder_of, read_table
from pipelines.sets.listed import Clip, leave_out, listed_set, numbered_classes
from pipelines.sources import open_source

FOLDS = tuple(str(n) for n in range(1, 11))
_COLUMNS = ("slice_file_name", "fold", "classID", "class")


def urbansound8k(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """`fold` is the test part, "1" where none is named."""
  name = "urbansound8k"
  folder = folder_of(path, name, "audio/ and metadata/UrbanSound8K.csv")
  table = folder / "metadata" / "UrbanSound8K.csv"
  rows = read_table(table, _COLUMNS, name)
  classes = numbered_classes(rows, "classID", "class", f"{name}: {str(table)!r}")
  clips = (
    (row["fold"], Clip(f"fold{row['fold']}/{row['slice_file_name']}", (row["class"].strip(),)))
    for row in rows
  )
  fold = fold or FOLDS[0]
  source = open_source(str(folder / "audio"), cfg)
  parts = leave_out(clips, FOLDS, fold, name, source)
  return listed_set(name, parts, classes=classes, folds=FOLDS, fold=fold)
