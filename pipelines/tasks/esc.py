"""Environmental sounds: ESC-50 and its subset ESC-10 (Piczak 2015, doi 10.1145/2733373.2806390).

Layout: `audio/` and `meta/esc50.csv` with the columns filename, fold, target, category. The five
folds are the groups: they were made so that clips cut from one recording stay together. Classes are
those that occur, in the order of their target numbers; the listed file may be stored with another
audio suffix.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from pipelines.errors import DataError
from pipelines.tasks.labelled import (
  SAMPLE_RATE,
  LabelledSet,
  existing_folder,
  file_content,
  read_wave,
)

COLUMNS = ("filename", "fold", "target", "category")
ESC10_TARGETS = frozenset({0, 1, 10, 11, 12, 20, 21, 38, 40, 41})


def esc50(path: str) -> LabelledSet:
  """Every clip that the table lists and the folder holds."""
  return _esc(path, "esc50", None)


def esc10(path: str) -> LabelledSet:
  """The ten classes of ESC-10, from a copy of either set."""
  return _esc(path, "esc10", ESC10_TARGETS)


def _esc(path: str, name: str, targets: frozenset[int] | None) -> LabelledSet:
  folder = existing_folder(path, name, "audio/ and meta/esc50.csv")
  rows = _read_table(folder / "meta" / "esc50.csv", name)
  # By stem: copies of the set are often re-encoded to another format.
  audio = {p.stem: p for p in sorted((folder / "audio").glob("*")) if not p.name.startswith(".")}
  if not audio:
    raise DataError(f"{name}: no audio in {str(folder / 'audio')!r}")
  rows = [
    r
    for r in rows
    if Path(r["filename"]).stem in audio and (not targets or int(r["target"]) in targets)
  ]
  if not rows:
    raise DataError(
      f"{name}: none of the files in {str(folder / 'audio')!r} is listed in meta/esc50.csv"
    )
  categories = {int(r["target"]): r["category"] for r in rows}
  numbers = {target: label for label, target in enumerate(sorted(categories))}
  files = [audio[Path(r["filename"]).stem] for r in rows]
  return LabelledSet(
    name=name,
    ids=[file.stem for file in files],
    labels=np.array([numbers[int(r["target"])] for r in rows], np.int32),
    groups=[f"fold{r['fold']}" for r in rows],
    classes=[categories[target] for target in numbers],
    load=lambda i, rate=SAMPLE_RATE: read_wave(files[i], rate),
    content=lambda i: file_content(files[i]),
  )


def _read_table(path: Path, name: str) -> list[dict[str, str]]:
  if not path.is_file():
    raise DataError(f"{name}: no table at {str(path)!r}; the folder must hold meta/esc50.csv")
  with path.open(newline="", encoding="utf-8") as file:
    reader = csv.DictReader(file)
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
      raise DataError(
        f"{name}: {str(path)!r} lacks the column {missing[0]!r}; it needs {', '.join(COLUMNS)}"
      )
    rows = list(reader)
  for line, row in enumerate(rows, start=2):
    if not (row["target"] or "").strip().isdecimal():
      raise DataError(
        f"{name}: {str(path)!r} line {line}: target {row['target']!r} is not a whole number"
      )
  return rows
