"""NSynth: the instrument family of a note of four seconds (Engel et al. 2017).

    nsynth-{train,valid,test}/examples.json   for each note its instrument_family, a number, and
                                              instrument_family_str
    nsynth-{train,valid,test}/audio/          a file named after each note

Classes are the families of the training part in the order of their numbers: eleven as published, of
which the validation and test parts lack the leads of synthesisers. Source: the publishers' own
pages; reference text of the weakly supervised taggers, section 4, where the number is 10 in one
place and 11 in another.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.sets.base import TrainingSet, folder_of, one_split
from pipelines.sets.listed import Clip, Listed, listed_set, numbered_classes
from pipelines.sources import open_source

_PARTS = {"train": "train", "validation": "valid", "test": "test"}
_NUMBER, _NAME = "instrument_family", "instrument_family_str"


def nsynth(path: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """The published split."""
  one_split(fold, "nsynth")
  folder = folder_of(path, "nsynth", "nsynth-train/, nsynth-valid/ and nsynth-test/")
  notes = {
    part: _notes(folder / f"nsynth-{theirs}" / "examples.json") for part, theirs in _PARTS.items()
  }
  parts = {
    part: Listed(
      open_source(str(folder / f"nsynth-{theirs}" / "audio"), cfg),
      [Clip(note, (about[_NAME],)) for note, about in notes[part].items()],
    )
    for part, theirs in _PARTS.items()
  }
  classes = numbered_classes(list(notes["train"].values()), _NUMBER, _NAME, "nsynth: examples.json")
  return listed_set("nsynth", parts, classes=classes)


def _notes(path: Path) -> dict[str, dict[str, str]]:
  """{note: {number of its family, name of its family}}, as text."""
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
    return {
      note: {_NUMBER: str(int(about[_NUMBER])), _NAME: str(about[_NAME])}
      for note, about in content.items()
    }
  except OSError as error:
    raise DataError(f"nsynth: {str(path)!r} cannot be read ({error.strerror})") from None
  except (ValueError, AttributeError, TypeError, KeyError):
    raise DataError(
      f"nsynth: {str(path)!r} must hold {_NUMBER} and {_NAME} for each note; fetch it again"
    ) from None
