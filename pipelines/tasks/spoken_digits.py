"""Spoken digits (Free Spoken Digit Dataset, CC BY-SA 4.0): digits 0 to 9 said by a few speakers.

Layout: one folder of `{digit}_{speaker}_{take}.wav`, 8 kHz mono. The label is the digit; the groups
are the speakers, so that no voice is in both parts of an evaluation. (With the same speakers on
both sides even averages of the spectrum reach 90 %, which tests nothing.)
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pipelines.errors import DataError
from pipelines.tasks.labelled import SAMPLE_RATE, LabelledSet, existing_folder, read_wave

NAME_PATTERN = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[^_]+)_(?P<take>[0-9]+)\.wav")


def spoken_digits(path: str, name: str = "spoken_digits") -> LabelledSet:
  """Opens the folder (or one that has it as `recordings/`). Files of other names are left out."""
  folder = existing_folder(path, name, "{digit}_{speaker}_{take}.wav")
  if (folder / "recordings").is_dir():
    folder = folder / "recordings"
  found = [m for p in sorted(folder.glob("*.wav")) if (m := NAME_PATTERN.fullmatch(p.name))]
  if not found:
    raise DataError(f"{name}: no audio named {{digit}}_{{speaker}}_{{take}}.wav in {str(folder)!r}")
  files: list[Path] = [folder / m.string for m in found]
  return LabelledSet(
    name=name,
    ids=[m.string.removesuffix(".wav") for m in found],
    labels=np.array([int(m["digit"]) for m in found], np.int32),
    groups=[m["speaker"] for m in found],
    classes=[str(digit) for digit in range(10)],
    load=lambda i, rate=SAMPLE_RATE: read_wave(files[i], rate),
  )
