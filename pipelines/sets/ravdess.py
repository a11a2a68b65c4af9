"""RAVDESS: eight emotions in the speech of 24 actors (Livingstone and Russo 2018).

    Actor_01/ ... Actor_24/   03-01-EMOTION-INTENSITY-STATEMENT-REPETITION-ACTOR.wav, of two
                              digits each

The folder may hold Audio_Speech_Actors_01-24/, as the archive unpacks; songs (03-02-...) stay
unused. The set is published without folds. These are four of six actors each, 1 to 6 first: no
actor is in two, and men and women, odd and even, are as many in each.

Source: the publishers' own pages.
"""

from __future__ import annotations

import re

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.sets.base import TrainingSet, every_id, folder_of
from pipelines.sets.listed import Clip, leave_out, listed_set
from pipelines.sources import open_source

FOLDS = ("1", "2", "3", "4")
ACTORS_OF_A_FOLD = 6
# In the order of their numbers, from 01.
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_SPEECH = re.compile(r"(?:.*/)?03-01-(?P<emotion>0[1-8])-\d\d-\d\d-\d\d-(?P<actor>\d\d)\.\w+")


def ravdess(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """`fold` is the test part, "1" where none is named."""
  folder = folder_of(path, "ravdess", "Actor_01/ to Actor_24/")
  inner = folder / "Audio_Speech_Actors_01-24"
  source = open_source(str(inner if inner.is_dir() else folder), cfg)
  matches = [match for name in sorted(every_id(source)) if (match := _SPEECH.fullmatch(name))]
  if not matches:
    raise DataError(
      f"ravdess: no speech named 03-01-EMOTION-INTENSITY-STATEMENT-REPETITION-ACTOR.wav in "
      f"{str(folder)!r}"
    )
  clips = (
    (
      str(1 + (int(match["actor"]) - 1) // ACTORS_OF_A_FOLD),
      Clip(match.string, (EMOTIONS[int(match["emotion"]) - 1],)),
    )
    for match in matches
  )
  fold = fold or FOLDS[0]
  parts = leave_out(clips, FOLDS, fold, "ravdess", source)
  return listed_set("ravdess", parts, classes=EMOTIONS, folds=FOLDS, fold=fold)
