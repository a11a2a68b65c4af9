"""FSDKaggle2018 and FSDKaggle2019: Freesound clips of two challenges (Fonseca et al. 2018, 2019).

    fsdkaggle2018=FOLDER   FSDKaggle2018.meta/train_post_competition.csv and
                           test_post_competition_scoring_clips.csv, each with fname and label;
                           FSDKaggle2018.audio_train/ and FSDKaggle2018.audio_test/
    fsdkaggle2019_curated, fsdkaggle2019_noisy=FOLDER
                           FSDKaggle2019.meta/{train_curated,train_noisy,test}_post_competition.csv,
                           each with fname and labels; FSDKaggle2019.audio_{...}/ of the same names

A clip of 2018 has one label and is trained as a tag among tags, with a loss of its own for each, as
the transfer study does. Neither set has a validation part: a tenth of the training part is split
off. Classes stand in order of the alphabet. Source: reference text of the weakly supervised
taggers, section 4, and the publishers' own pages.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

from pipelines.config import DataConfig
from pipelines.sets.base import TrainingSet, folder_of, one_split, read_table
from pipelines.sets.listed import Clip, Listed, listed_set, nine_tenths
from pipelines.sources import open_source


class _Kind(NamedTuple):
  """A set: year, column of labels, (table, audio) of both parts, how clips are scored."""

  year: str
  column: str
  train: tuple[str, str]
  test: tuple[str, str]
  metric: str


_TEST_2019 = ("test_post_competition.csv", "audio_test")
_KINDS = {
  "fsdkaggle2018": _Kind(
    "2018",
    "label",
    ("train_post_competition.csv", "audio_train"),
    ("test_post_competition_scoring_clips.csv", "audio_test"),
    "mAP_at_3",
  ),
  **{
    f"fsdkaggle2019_{which}": _Kind(
      "2019",
      "labels",
      (f"train_{which}_post_competition.csv", f"audio_train_{which}"),
      _TEST_2019,
      "lwlrap",
    )
    for which in ("curated", "noisy")
  },
}


def _fsdkaggle(name: str, path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  one_split(fold, name)
  kind = _KINDS[name]
  folder = folder_of(path, name, f"FSDKaggle{kind.year}.meta/ and its audio")
  train, validation = nine_tenths(_clips(folder, kind, kind.train[0], name), cfg)
  heard = open_source(str(folder / f"FSDKaggle{kind.year}.{kind.train[1]}"), cfg)
  parts = {
    "train": Listed(heard, train),
    "validation": Listed(heard, validation),
    "test": Listed(
      open_source(str(folder / f"FSDKaggle{kind.year}.{kind.test[1]}"), cfg),
      _clips(folder, kind, kind.test[0], name),
    ),
  }
  classes = sorted({label for clip in (*train, *validation) for label in clip.labels})
  return listed_set(name, parts, classes=classes, objective="tags", metric=kind.metric)


def _clips(folder: Path, kind: _Kind, table: str, name: str) -> list[Clip]:
  path = folder / f"FSDKaggle{kind.year}.meta" / table
  rows = read_table(path, ("fname", kind.column), name)
  return [
    Clip(row["fname"].strip(), tuple(tag.strip() for tag in row[kind.column].split(",")))
    for row in rows
  ]


fsdkaggle2018 = functools.partial(_fsdkaggle, "fsdkaggle2018")
fsdkaggle2019_curated = functools.partial(_fsdkaggle, "fsdkaggle2019_curated")
fsdkaggle2019_noisy = functools.partial(_fsdkaggle, "fsdkaggle2019_noisy")
