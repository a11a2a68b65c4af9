"""VoxCeleb1, identification: which of 1,251 people speaks (Nagrani et al. 2017).

    iden_split.txt   lines of a number and a path: "1 id10001/1zcIwhmdeo4/00001.wav"; 1 is the
                     training part, 2 the validation part, 3 the test part
    wav/             id/video/clip.wav; or dev/wav/ and test/wav/, or any other folders above these

Classes are the people by id, in order of the alphabet. Source: the publishers' own pages.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.sets.base import TrainingSet, every_id, folder_of, one_split, read_lines
from pipelines.sets.listed import Clip, Listed, listed_set, without_suffix
from pipelines.sources import open_source

_PARTS = {"1": "train", "2": "validation", "3": "test"}


def voxceleb1(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """The published split for identification: the same people in all three parts."""
  one_split(fold, "voxceleb1")
  folder = folder_of(path, "voxceleb1", "iden_split.txt and wav/")
  source = open_source(str(folder), cfg)
  # The archives unpack to folders whose names differ; a clip is told by the last three parts.
  above = {_clip(name): name for name in every_id(source)}
  clips: dict[str, list[Clip]] = {part: [] for part in _PARTS.values()}
  for part, listed in _split(folder / "iden_split.txt"):
    person = listed.split("/", 1)[0]
    clips[part].append(Clip(above.get(_clip(listed), listed), (person,)))
  return listed_set("voxceleb1", {p: Listed(source, c) for p, c in clips.items()})


def _clip(path: str) -> str:
  return "/".join(without_suffix(path).rsplit("/", 3)[-3:])


def _split(path: Path) -> list[tuple[str, str]]:
  """(part, path) of each line."""
  found = []
  for number, line in enumerate(read_lines(path, "voxceleb1"), start=1):
    if not line.strip():
      continue
    which, _, listed = line.strip().partition(" ")
    if which not in _PARTS or listed.count("/") != 2:
      raise DataError(
        f"voxceleb1: {str(path)!r} line {number}: expected 1, 2 or 3 and id/video/clip.wav"
      )
    found.append((_PARTS[which], listed.strip()))
  return found
