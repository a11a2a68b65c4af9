"""VoxLingua107: which of 107 languages is spoken (Valk and Alumäe 2021).

    {language}/       the training part, a folder for each language's code; or train/{language}/
    dev/{language}/   the test part, which has 33 of the languages

A tenth of the training part is split off for validation. Classes are the codes in order of the
alphabet. Source: the publishers' own pages.
"""

from __future__ import annotations

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.sets.base import TrainingSet, every_id, folder_of, one_split
from pipelines.sets.listed import Clip, Listed, listed_set, nine_tenths
from pipelines.sources import Source, open_source


def voxlingua107(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """The published parts, the figure being the error rate."""
  one_split(fold, "voxlingua107")
  folder = folder_of(path, "voxlingua107", "a folder for each language, and dev/")
  if not (folder / "dev").is_dir():
    raise DataError(f"voxlingua107: no dev/ in {str(folder)!r}, which is the test part")
  inner = folder / "train"
  heard = open_source(str(inner if inner.is_dir() else folder), cfg)
  test = open_source(str(folder / "dev"), cfg)
  train, validation = nine_tenths(_clips(heard), cfg)
  parts = {
    "train": Listed(heard, train),
    "validation": Listed(heard, validation),
    "test": Listed(test, _clips(test)),
  }
  return listed_set("voxlingua107", parts, metric="error_rate")


def _clips(source: Source) -> list[Clip]:
  """Of language/clip.wav; what lies deeper or beside is of another part."""
  return [
    Clip(name, (name.split("/", 1)[0],))
    for name in sorted(every_id(source))
    if name.count("/") == 1
  ]
