"""Sets with several tags for each clip, all of them judged: AudioSet and FSD50K.

    audioset=FOLDER   {balanced_train,unbalanced_train,eval}_segments_mp3.hdf; or for each of the
                      three {part}_segments.csv as published, with the audio in {part}_segments/,
                      a folder of files or of shards; class_labels_indices.csv
    audioset_weak=FOLDER, audioset_balanced=FOLDER
                      the same, trained on as the weakly supervised taggers are
    fsd50k=FOLDER     FSD50K.{train,val,eval}_mp3.hdf; or FSD50K.ground_truth/ with dev.csv,
                      eval.csv and vocabulary.csv, and FSD50K.{dev,eval}_audio/

Source: reference text of MN and DyMN, section 11; of the weakly supervised taggers, section 3; and
the publishers' own pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from pipelines import targets as tables
from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.sets.base import (
  Objective,
  TrainingSet,
  every_id,
  folder_of,
  one_split,
  read_rows,
  read_table,
)
from pipelines.sources import Source, open_source
from pipelines.sources.hdf5 import HDF5Source
from pipelines.sources.selected import ABSENT, SelectedSource, rows_of
from pipelines.targets import PackedTargets

AUDIOSET_CLASSES, FSD50K_CLASSES = 527, 200
CLASS_LIST = "class_labels_indices.csv"
_YOUTUBE_ID = 11  # characters
_AUDIOSET = {"train": ("balanced_train", "unbalanced_train"), "test": ("eval",)}
_FSD50K = {"train": "train", "validation": "val", "test": "eval"}


def audioset(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """Balanced and unbalanced training set together, and the evaluation set.

  A folder that lacks one of the training sets is trained on with the other alone.
  """
  one_split(fold, "audioset")
  return TrainingSet("audioset", *_audioset(path, _AUDIOSET["train"], cfg))


def audioset_weak(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """The same, validated on the balanced training set, which is trained on too.

  So states are chosen by clips that they were trained on, as in the paper, and none by those of the
  evaluation set.
  """
  one_split(fold, "audioset_weak")
  return _validated_on_balanced("audioset_weak", path, _AUDIOSET["train"], cfg)


def audioset_balanced(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """`audioset_weak` without the unbalanced set: trained and validated on the balanced one alone."""
  one_split(fold, "audioset_balanced")
  return _validated_on_balanced("audioset_balanced", path, _AUDIOSET["train"][:1], cfg)


def _validated_on_balanced(
  name: str, path: str, train: tuple[str, ...], cfg: DataConfig
) -> TrainingSet:
  classes, objective, parts = _audioset(path, train, cfg)
  if len(parts["train"]) < len(train):
    raise DataError(
      f"{name}: {path!r} lacks one of {', '.join(f'{part}_segments' for part in train)}; "
      "audioset_balanced needs the balanced set alone, and audioset takes either"
    )
  return TrainingSet(name, classes, objective, {**parts, "validation": parts["train"][:1]})


def _audioset(
  path: str, train: tuple[str, ...], cfg: DataConfig
) -> tuple[tuple[str, ...], Objective, dict[str, tuple[Source, ...]]]:
  """(classes, objective, parts) of AudioSet, trained on those of these lists that are there."""
  folder = folder_of(path, "audioset", "*_segments_mp3.hdf, or *_segments.csv with their audio")
  mids, classes = _class_list(folder / CLASS_LIST)
  parts: dict[str, tuple[Source, ...]] = {}
  for part, names in {**_AUDIOSET, "train": train}.items():
    found = [s for name in names if (s := _segments(folder, name, mids, classes, cfg)) is not None]
    if not found:
      raise DataError(
        f"audioset: {str(folder)!r} holds neither {names[0]}_segments_mp3.hdf nor "
        f"{names[0]}_segments.csv with {names[0]}_segments/"
      )
    parts[part] = tuple(found)
  return classes, "tags", parts


def fsd50k(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """The published split, with its validation part."""
  one_split(fold, "fsd50k")
  folder = folder_of(path, "fsd50k", "FSD50K.*_mp3.hdf, or FSD50K.ground_truth/ with its audio")
  if (folder / "FSD50K.ground_truth").is_dir():
    return _fsd50k_files(folder, cfg)
  classes = tuple(f"class {i}" for i in range(FSD50K_CLASSES))
  if (vocabulary := folder / "vocabulary.csv").is_file():
    classes = _vocabulary(vocabulary)
  parts = {
    part: (packed(folder / f"FSD50K.{name}_mp3.hdf", classes, cfg),)
    for part, name in _FSD50K.items()
  }
  return TrainingSet("fsd50k", classes, "tags", parts)


def packed(path: Path, classes: tuple[str, ...], cfg: DataConfig) -> SelectedSource:
  """An HDF5 file whose targets are packed bits."""
  source = HDF5Source(str(path), cfg)
  try:
    targets = PackedTargets(source.targets_in(), len(classes))
  except DataError as error:
    raise DataError(f"{path}: {error}") from None
  rows = np.arange(len(targets))
  return SelectedSource(
    source, rows, targets=targets, classes=list(classes), skipped=source.skipped
  )


def _segments(
  folder: Path, name: str, mids: dict[str, str], classes: tuple[str, ...], cfg: DataConfig
) -> SelectedSource | None:
  """One of AudioSet's three segment lists, in either form; None where it is not there."""
  if (file := folder / f"{name}_segments_mp3.hdf").is_file():
    return packed(file, classes, cfg)
  table, audio = folder / f"{name}_segments.csv", folder / f"{name}_segments"
  if not table.is_file() or not audio.is_dir():
    return None
  if not mids:
    raise DataError(f"audioset: {str(table)!r} names classes by id; put {CLASS_LIST} beside it")
  source = open_source(str(audio), cfg)
  ours = {youtube_id(name): name for name in every_id(source)}
  tags: dict[str, list[str]] = dict(_published_segments(table))
  wanted = [ours.get(clip, clip) for clip in tags]
  rows, missing = rows_of(source, wanted)
  found = np.flatnonzero(rows >= 0)
  found = found[np.argsort(rows[found], kind="stable")]  # as stored: shards are read through
  if not len(found):
    raise DataError(f"audioset: none of the recordings in {str(audio)!r} is listed in {table.name}")
  strange = {mid for marks in tags.values() for mid in marks} - set(mids)
  if strange:
    raise DataError(f"audioset: {str(table)!r} has the class {min(strange)!r}, not in {CLASS_LIST}")
  named = [[mids[mid] for mid in marks] for marks in tags.values()]
  return SelectedSource(
    source,
    rows[found],
    name=f"audioset {name}",
    targets=tables.from_names([named[i] for i in found], classes, str(table)),
    classes=list(classes),
    # Videos that are gone are nobody's fault: what counts is what is there and cannot be used.
    skipped=[(name, reason) for name, reason in missing if reason != ABSENT],
  )


def youtube_id(recording: str) -> str:
  """The id in a recording's name: "a/Y--PJHxphWEs.mp3" and "--PJHxphWEs_30000" -> "--PJHxphWEs"."""
  stem = PurePosixPath(recording).name
  stem = stem.split(".", 1)[0]
  if (
    len(stem) > _YOUTUBE_ID
    and stem[0] == "Y"
    and stem[_YOUTUBE_ID + 1 : _YOUTUBE_ID + 2]
    in (
      "",
      "_",
    )
  ):
    stem = stem[1:]
  return stem[:_YOUTUBE_ID] if stem[_YOUTUBE_ID : _YOUTUBE_ID + 1] in ("", "_") else stem


def _published_segments(path: Path) -> Iterator[tuple[str, list[str]]]:
  """(id, class ids) of each row, `id, start, end, "/m/a,/m/b"`, but for comments behind #."""
  for number, row in enumerate(read_rows(path, "audioset", skipinitialspace=True), start=1):
    if row[0].startswith("#"):
      continue
    if len(row) != 4 or not row[3]:
      raise DataError(f'audioset: {str(path)!r} row {number}: expected id, start, end, "class ids"')
    yield row[0], [mid.strip() for mid in row[3].split(",") if mid.strip()]


def _class_list(path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
  """({class id: name}, names in order), or numbers where the list is not there."""
  if not path.is_file():
    return {}, tuple(f"class {i}" for i in range(AUDIOSET_CLASSES))
  rows = read_table(path, ("index", "mid", "display_name"), "audioset")
  if [row["index"] for row in rows] != [str(i) for i in range(AUDIOSET_CLASSES)]:
    raise DataError(f"audioset: {str(path)!r} must list the classes 0 to {AUDIOSET_CLASSES - 1}")
  return (
    {row["mid"]: row["display_name"] for row in rows},
    tuple(row["display_name"] for row in rows),
  )


def _vocabulary(path: Path) -> tuple[str, ...]:
  """Class names of FSD50K: rows of number, name, id, without a head."""
  rows = read_rows(path, "fsd50k")
  numbered = [row[0].strip() for row in rows] == [str(i) for i in range(FSD50K_CLASSES)]
  if not numbered or any(len(row) < 2 for row in rows):
    raise DataError(
      f"fsd50k: {str(path)!r} must list the classes 0 to {FSD50K_CLASSES - 1}: number, name, id"
    )
  return tuple(row[1] for row in rows)


def _fsd50k_files(folder: Path, cfg: DataConfig) -> TrainingSet:
  truth = folder / "FSD50K.ground_truth"
  classes = _vocabulary(truth / "vocabulary.csv")
  dev = read_table(truth / "dev.csv", ("fname", "labels", "split"), "fsd50k")
  test = read_table(truth / "eval.csv", ("fname", "labels"), "fsd50k")
  audio = {
    which: open_source(str(folder / f"FSD50K.{which}_audio"), cfg) for which in ("dev", "eval")
  }

  def part(which: str, rows: list[dict[str, str]], name: str) -> tuple[Source, ...]:
    source = audio[which]
    ids = {PurePosixPath(name).stem: name for name in every_id(source)}
    picked, missing = rows_of(source, [ids.get(row["fname"], row["fname"]) for row in rows])
    found = np.flatnonzero(picked >= 0)
    if not len(found):
      raise DataError(f"fsd50k: none of the recordings of part {name} is in {source.name}")
    tags = [rows[i]["labels"].split(",") for i in found]
    return (
      SelectedSource(
        source,
        picked[found],
        name=f"fsd50k {name}",
        targets=tables.from_names(tags, classes, f"fsd50k {name}"),
        classes=list(classes),
        skipped=missing,
      ),
    )

  parts = {
    "train": part("dev", [r for r in dev if r["split"] == "train"], "train"),
    "validation": part("dev", [r for r in dev if r["split"] == "val"], "validation"),
    "test": part("eval", test, "test"),
  }
  return TrainingSet("fsd50k", classes, "tags", parts)
