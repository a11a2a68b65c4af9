"""ESC-50 and its subset ESC-10: five folds, one of them left out (Piczak 2015).

Layout: meta/esc50.csv (filename, fold, target, category) and the audio in audio_32k/ or audio/, of
any suffix. Source: reference text of MN and DyMN, sections 10.3 and 11.
"""

from __future__ import annotations

from collections import Counter
from pathlib import PurePath

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.sets.base import TrainingSet, every_id, folder_of, pick, read_table
from pipelines.sets.listed import numbered_classes
from pipelines.sources import open_source
from pipelines.tasks.esc import COLUMNS, ESC10_TARGETS

FOLDS = ("1", "2", "3", "4", "5")


def esc50(path: str, cfg: DataConfig, fold: str = "1") -> TrainingSet:
  """All fifty classes; `fold` is the test part."""
  return _esc(path, cfg, fold, "esc50", None)


def esc10(path: str, cfg: DataConfig, fold: str = "1") -> TrainingSet:
  """The ten classes of ESC-10, from a copy of either set."""
  return _esc(path, cfg, fold, "esc10", ESC10_TARGETS)


def _esc(
  path: str, cfg: DataConfig, fold: str, name: str, targets: frozenset[int] | None
) -> TrainingSet:
  fold = fold or FOLDS[0]
  if fold not in FOLDS:
    raise DataError(f"{name}: fold {fold!r} is not one of {', '.join(FOLDS)}")
  folder = folder_of(path, name, "audio/ and meta/esc50.csv")
  table = folder / "meta" / "esc50.csv"
  rows = read_table(table, COLUMNS, name)
  place = f"{name}: {str(table)!r}"
  numbered_classes(rows, "target", "category", place)
  rows = [row for row in rows if targets is None or int(row["target"]) in targets]
  classes = numbered_classes(rows, "target", "category", place)
  audio = next((folder / n for n in ("audio_32k", "audio") if (folder / n).is_dir()), None)
  if audio is None:
    raise DataError(f"{name}: neither audio_32k/ nor audio/ in {str(folder)!r}")
  source = open_source(str(audio), cfg)
  # By stem: copies of the set are often stored in another format.
  ids = {PurePath(name).stem: name for name in every_id(source)}
  known = Counter(PurePath(row["filename"]).stem in ids for row in rows)
  if not known[True]:
    raise DataError(f"{name}: none of the files in {str(audio)!r} is listed in meta/esc50.csv")

  def part(rows: list[dict[str, str]], which: str):
    wanted = [ids.get(PurePath(r["filename"]).stem, r["filename"]) for r in rows]
    labels = [r["category"].strip() for r in rows]
    return (pick(source, wanted, labels, classes, f"{name} {which}"),)

  return TrainingSet(
    name=name,
    classes=classes,
    objective="classes",
    parts={
      "train": part([r for r in rows if r["fold"].strip() != fold], f"without fold {fold}"),
      "test": part([r for r in rows if r["fold"].strip() == fold], f"fold {fold}"),
    },
    folds=FOLDS,
    fold=fold,
  )
