"""Spoken digits (Free Spoken Digit Dataset, CC BY-SA 4.0): digits 0 to 9 said by a few speakers.

Layout: one folder of `{digit}_{speaker}_{take}.wav`, 8 kHz mono. The label is the digit; the groups
are the speakers, so that no voice is in both parts of an evaluation. (With the same speakers on
both sides even averages of the spectrum reach 90 %, which tests nothing.)

`speaker` asks who speaks instead. Its groups are five folds of consecutive takes, ten of fifty in
the published set: takes were recorded one after another, so neighbours, which are most alike, stay
together. Every speaker and digit is in each fold. A speaker has one microphone and one room, which
an encoder can hear as well as the voice.
"""

from __future__ import annotations

import re
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

NAME_PATTERN = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[^_]+)_(?P<take>[0-9]+)\.wav")
FOLDS = 5


def spoken_digits(path: str, name: str = "spoken_digits") -> LabelledSet:
  """Opens the folder (or one that has it as `recordings/`). Files of other names are left out."""
  found = _clips(path, name)
  digits = [int(m["digit"]) for _, m in found]
  return _set(name, found, digits, [m["speaker"] for _, m in found], list(map(str, range(10))))


def speaker(path: str, name: str = "speaker") -> LabelledSet:
  """The same clips, labelled with who speaks. Raises DataError where there is one take alone."""
  found = _clips(path, name)
  takes = sorted({int(m["take"]) for _, m in found})
  if len(takes) < 2:
    raise DataError(f"{name}: every clip is take {takes[0]}; folds of takes need two or more")
  fold = {take: f"fold{FOLDS * i // len(takes) + 1}" for i, take in enumerate(takes)}
  speakers = sorted({m["speaker"] for _, m in found})
  labels = [speakers.index(m["speaker"]) for _, m in found]
  return _set(name, found, labels, [fold[int(m["take"])] for _, m in found], speakers)


def _clips(path: str, name: str) -> list[tuple[Path, re.Match]]:
  folder = existing_folder(path, name, "{digit}_{speaker}_{take}.wav")
  if (folder / "recordings").is_dir():
    folder = folder / "recordings"
  found = [(p, m) for p in sorted(folder.glob("*.wav")) if (m := NAME_PATTERN.fullmatch(p.name))]
  if not found:
    raise DataError(f"{name}: no audio named {{digit}}_{{speaker}}_{{take}}.wav in {str(folder)!r}")
  return found


def _set(
  name: str,
  found: list[tuple[Path, re.Match]],
  labels: list[int],
  groups: list[str],
  classes: list[str],
) -> LabelledSet:
  files = [p for p, _ in found]
  return LabelledSet(
    name=name,
    ids=[p.stem for p in files],
    labels=np.array(labels, np.int32),
    groups=groups,
    classes=classes,
    load=lambda i, rate=SAMPLE_RATE: read_wave(files[i], rate),
    content=lambda i: file_content(files[i]),
  )
