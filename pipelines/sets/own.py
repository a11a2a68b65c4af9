"""Anyone's own audio: a folder for each class, or a table.

    folder=PATH    PATH/dog/..., PATH/cat/...; or PATH/train/dog/... and PATH/test/dog/...
    table=FILE     .csv, .tsv or .jsonl with the columns path, label and perhaps split

In a table, labels that hold ";" make the set one of tags: "dog;bark". Where nothing says which part
a recording belongs to, `data.holdout` decides by a stable hash of its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from pipelines import targets as tables
from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.parts import is_held_out
from pipelines.sets.base import Objective, TrainingSet, folder_of
from pipelines.sources import Source, open_source
from pipelines.sources.manifest import SUFFIXES, ManifestSource
from pipelines.sources.selected import SelectedSource

HOLDOUT = 0.2  # of a set that nobody has split, where `data.holdout` is 0
SEPARATOR = ";"
_PARTS = {"train": "train", "test": "test", "eval": "test", "validation": "validation"}
_PARTS |= {"val": "validation", "valid": "validation"}


def folder(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """A folder of folders, whose names are the classes."""
  _no_fold(fold, "folder")
  root = folder_of(path, "folder", "one folder of audio for each class")
  source = open_source(str(root), cfg)
  parents = [PurePosixPath(str(name)).parts[:-1] for name in source.ids]
  tops = {parts[0] for parts in parents if parts}
  split = "train" in tops and tops <= set(_PARTS)
  at = 1 if split else 0
  for name, above in zip(source.ids, parents, strict=True):
    if len(above) <= at:
      raise DataError(
        f"folder: {name} lies in no folder of a class; put every recording below {str(root)!r} "
        "into a folder named after its class"
      )
  labels = [parts[at] for parts in parents]
  chosen = [_PARTS[p[0]] if split else "" for p in parents]
  return _split(source, labels, chosen, cfg, root.name)


def table(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """A manifest with labels; see the head of this file."""
  _no_fold(fold, "table")
  file = Path(path).expanduser()
  if not file.is_file() or not path.lower().endswith(SUFFIXES):
    raise DataError(f"table: no table at {path!r}; give a .csv, .tsv or .jsonl file")
  source = open_source(str(file), cfg)
  if source.labels is None:
    raise DataError(f"table: {path!r} has no column label, so there is nothing to learn")
  assert isinstance(source, ManifestSource)
  labels = [str(label) for label in source.labels]
  parts = [_part(s, str(i), path) for s, i in zip(source.splits, source.ids, strict=True)]
  return _split(source, labels, parts, cfg, file.stem)


def _part(text: str, name: str, path: str) -> str:
  if text and text.lower() not in _PARTS:
    raise DataError(
      f"table: {path!r} puts {name} into split {text!r}; known are {', '.join(_PARTS)}"
    )
  return _PARTS[text.lower()] if text else ""


def _split(
  source: Source, labels: Sequence[str], parts: Sequence[str], cfg: DataConfig, name: str
) -> TrainingSet:
  if not labels:
    bad = list(getattr(source, "skipped", ()))
    told = f" (such as {bad[0][0]}: {bad[0][1]})" if bad else ""
    raise DataError(f"{name}: none of its {len(bad)} recordings can be used{told}")
  for i, label in zip(source.ids, labels, strict=True):
    if not label:
      raise DataError(f"{name}: {i} has no label; remove it or give it one")
  share = cfg.holdout or HOLDOUT
  origins = getattr(source, "origins", source.ids)
  chosen = [
    part or ("test" if is_held_out(str(origin), share) else "train")
    for part, origin in zip(parts, origins, strict=True)
  ]
  tagged = any(SEPARATOR in label for label in labels)
  names = [[t.strip() for t in x.split(SEPARATOR) if t.strip()] for x in labels]
  classes = tuple(sorted({tag for tags in names for tag in tags} if tagged else set(labels)))
  number = {label: i for i, label in enumerate(classes)}
  objective: Objective = "tags" if tagged else "classes"
  found: dict[str, tuple[Source, ...]] = {}
  for part in dict.fromkeys(["train", "test", *chosen]):
    rows = np.flatnonzero(np.asarray(chosen) == part)
    if not len(rows):
      raise DataError(
        f"{name}: no recording is in the part {part!r} ({len(labels)} in all); name the parts, or "
        f"choose another data.holdout than {share:g}"
      )
    found[part] = (
      SelectedSource(
        source,
        rows,
        name=f"{name} {part}",
        labels=None if tagged else [number[labels[int(i)]] for i in rows],
        targets=tables.from_names([names[i] for i in rows], classes, name) if tagged else None,
        classes=list(classes),
        skipped=getattr(source, "skipped", ()) if part == "train" else (),
      ),
    )
  return TrainingSet(name, classes, objective, found)


def _no_fold(fold: str, name: str) -> None:
  if fold:
    raise DataError(f"{name}: fold {fold!r}; a set of your own has no folds")
