"""OpenMIC-2018: twenty instruments, of which few were judged in each clip (Humphrey et al. 2018).

    openmic=FOLDER    openmic_{train,test}.csv_mp3.hdf; or as published: audio/,
                      openmic-2018-aggregated-labels.csv and partitions/split01_{train,test}.csv

Targets are the shares of listeners who heard an instrument, and marks of which were judged at all.
The published folder also has them as a NumPy archive, whose names are a pickle; the table holds the
same and executes nothing.

Source: reference text of MN and DyMN, section 11, and the publishers' own pages.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.sets.base import (
  TrainingSet,
  every_id,
  folder_of,
  one_split,
  read_rows,
  read_table,
)
from pipelines.sources import Source, open_source
from pipelines.sources.hdf5 import HDF5Source
from pipelines.sources.selected import SelectedSource, rows_of

# In the order of the published label arrays, which is that of the alphabet.
INSTRUMENTS = (
  *("accordion", "banjo", "bass", "cello", "clarinet", "cymbals", "drums", "flute", "guitar"),
  *("mallet_percussion", "mandolin", "organ", "piano", "saxophone", "synthesizer", "trombone"),
  *("trumpet", "ukulele", "violin", "voice"),
)
CLASSES = len(INSTRUMENTS)
LABELS = "openmic-2018-aggregated-labels.csv"
_UNJUDGED = 0.5  # as in the published arrays; the marks keep it out of every loss and score


def openmic(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """Twenty instruments; `judged` says which of them anybody has judged in a clip."""
  one_split(fold, "openmic")
  folder = folder_of(path, "openmic", f"openmic_*.csv_mp3.hdf, or {LABELS} with audio/")
  parts = _published(folder, cfg) if (folder / LABELS).is_file() else _packed(folder, cfg)
  return TrainingSet("openmic", INSTRUMENTS, "tags", parts)


def _part(
  source: Source,
  rows: np.ndarray,
  part: str,
  table: np.ndarray,
  skipped: list[tuple[str, str]],
) -> tuple[Source, ...]:
  """Table f32[n, 40]: probabilities, then marks."""
  return (
    SelectedSource(
      source,
      rows,
      name=f"openmic {part}",
      targets=table[:, :CLASSES],
      judged=table[:, CLASSES:],
      classes=list(INSTRUMENTS),
      skipped=skipped,
    ),
  )


def _packed(folder: Path, cfg: DataConfig) -> dict[str, tuple[Source, ...]]:
  parts = {}
  for part in ("train", "test"):
    source = HDF5Source(str(folder / f"openmic_{part}.csv_mp3.hdf"), cfg)
    table = source.targets_in()
    if table.shape[1] != 2 * CLASSES or not np.all((table >= 0) & (table <= 1)):
      raise DataError(
        f"openmic: {source.name}: targets must be {CLASSES} probabilities and as many "
        f"marks in each row, found {list(table.shape)}"
      )
    table = table.astype(np.float32)
    parts[part] = _part(source, np.arange(len(table)), part, table, list(source.skipped))
  return parts


def _published(folder: Path, cfg: DataConfig) -> dict[str, tuple[Source, ...]]:
  judged = _judgements(folder / LABELS)
  source = open_source(str(folder / "audio"), cfg)
  names = {PurePosixPath(name).stem: name for name in every_id(source)}
  parts = {}
  for part in ("train", "test"):
    listed = folder / "partitions" / f"split01_{part}.csv"
    keys = [row[0].strip() for row in read_rows(listed, "openmic")]
    rows, missing = rows_of(source, [names.get(key, key) for key in keys])
    found = np.flatnonzero(rows >= 0)
    if not len(found):
      raise DataError(f"openmic: none of the recordings of {str(listed)!r} is in {source.name}")
    unknown = [keys[i] for i in found if keys[i] not in judged]
    if unknown:
      raise DataError(f"openmic: {str(folder / LABELS)!r} says nothing of {unknown[0]}")
    table = np.stack([judged[keys[i]] for i in found])
    parts[part] = _part(source, rows[found], part, table, missing)
  return parts


def _judgements(path: Path) -> dict[str, np.ndarray]:
  """{clip: probabilities and marks f32[40]} of a table of clip, instrument, relevance."""
  number = {name: i for i, name in enumerate(INSTRUMENTS)}
  unjudged = np.repeat(np.array([_UNJUDGED, 0.0], np.float32), CLASSES)
  found: dict[str, np.ndarray] = {}
  rows = read_table(path, ("sample_key", "instrument", "relevance"), "openmic")
  for line, row in enumerate(rows, start=2):
    try:
      at, relevance = number[row["instrument"].strip()], float(row["relevance"])
    except (KeyError, ValueError):
      relevance = -1.0
    if not 0 <= relevance <= 1:
      raise DataError(
        f"openmic: {str(path)!r} line {line}: expected one of the {CLASSES} instruments and a "
        f"relevance from 0 to 1, found {row['instrument']!r} and {row['relevance']!r}"
      )
    one = found.setdefault(row["sample_key"].strip(), unjudged.copy())
    one[at], one[CLASSES + at] = relevance, 1.0
  return found
