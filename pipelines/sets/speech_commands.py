"""Speech Commands, versions 1 and 2: single words of a second (Warden 2018).

    {word}/                the recordings of a word; folders that begin with _ stay unused
    validation_list.txt    paths such as bed/0a7c2a8d_nohash_0.wav, one a line
    testing_list.txt       the same; what neither lists is trained on

Version 1 has thirty words. `speech_commands_v1` tells the ten commands and "unknown" apart, which
are eleven classes; `speech_commands_v1_30` and `speech_commands_v2` tell all words apart that there
are. Source: reference text of the weakly supervised taggers, section 4, and the publishers' own
pages.
"""

from __future__ import annotations

import functools
from pathlib import Path

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.sets.base import TrainingSet, every_id, folder_of, one_split, read_lines
from pipelines.sets.listed import Clip, Listed, listed_set, without_suffix
from pipelines.sources import open_source

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN = "unknown"
_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}


def _speech_commands(
  name: str, commands: tuple[str, ...], path: str, cfg: DataConfig, fold: str = ""
) -> TrainingSet:
  """commands: words with a class of their own, all others being `UNKNOWN`; none: every word."""
  one_split(fold, name)
  folder = folder_of(path, name, "a folder for each word, and its two lists")
  source = open_source(str(folder), cfg)
  lists = {part: _listed(folder / file, name) for part, file in _LISTS.items()}
  # Lists name WAV files; a copy may be stored with another suffix.
  taken = {without_suffix(clip) for clips in lists.values() for clip in clips}
  lists["train"] = [
    clip
    for clip in sorted(every_id(source))
    if without_suffix(clip) not in taken and "/" in clip and not clip.startswith("_")
  ]

  def label(clip: str) -> str:
    word = clip.split("/", 1)[0]
    return word if not commands or word in commands else UNKNOWN

  parts = {
    part: Listed(source, [Clip(clip, (label(clip),)) for clip in lists[part]])
    for part in ("train", "validation", "test")
  }
  return listed_set(name, parts, classes=(*commands, UNKNOWN) if commands else ())


def _listed(path: Path, name: str) -> list[str]:
  lines = [line.strip() for line in read_lines(path, name) if line.strip()]
  if not lines:
    raise DataError(f"{name}: {str(path)!r} lists no recording")
  return lines


speech_commands_v1 = functools.partial(_speech_commands, "speech_commands_v1", COMMANDS)
speech_commands_v1_30 = functools.partial(_speech_commands, "speech_commands_v1_30", ())
speech_commands_v2 = functools.partial(_speech_commands, "speech_commands_v2", ())
