"""What every labelled set offers, and the two helpers that its readers share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipelines.errors import BadAudio, DataError

SAMPLE_RATE = 16_000


@dataclasses.dataclass(frozen=True)
class LabelledSet:
  """A small labelled set for evaluation: every clip has one class and belongs to one group.

  Groups are the parts of a leave-one-group-out evaluation: folds, or speakers.
  `labels` i32[n] index `classes`; `groups` holds one name per clip; `load(i)` returns clip i as
  f32[samples], mono, in [-1, 1], at 16 kHz or the given rate.
  """

  name: str
  ids: Sequence[str]
  labels: np.ndarray
  groups: Sequence[str]
  classes: Sequence[str]
  load: Callable[..., np.ndarray]  # (i, rate=SAMPLE_RATE)

  def __post_init__(self):
    counts = {len(self.ids), len(self.labels), len(self.groups)}
    if counts == {0}:
      raise DataError(f"{self.name}: the set has no clips")
    if len(counts) != 1:
      raise DataError(
        f"{self.name}: {len(self.ids)} ids, {len(self.labels)} labels and "
        f"{len(self.groups)} groups differ"
      )
    if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
      raise DataError(f"{self.name}: labels must lie within 0..{len(self.classes) - 1}")

  def __len__(self) -> int:
    return len(self.ids)

  def in_memory(self) -> LabelledSet:
    """The same set, which keeps each wave once it is loaded: 64 kB for a second at 16 kHz."""
    return dataclasses.replace(self, load=functools.cache(self.load))


def existing_folder(path: str, task: str, expected: str) -> Path:
  """The folder as a Path, or a DataError that says what was expected there."""
  folder = Path(path).expanduser()
  if not path or not folder.is_dir():
    raise DataError(f"{task}: no folder at {path!r}; give the folder that holds {expected}")
  return folder


def read_wave(path: Path, rate: int = SAMPLE_RATE) -> np.ndarray:
  """Reads an audio file whole, f32[samples]: channels averaged, resampled to `rate` Hz.

  Raises DataError, naming the file, when it is absent, empty or damaged.
  """
  # Inside the function: tasks that read no file need no decoder.
  from pipelines import decode

  try:
    frames, _ = decode.header(str(path))
    wave, given = decode.read_span(str(path), 0, frames)
    decode.check_finite(wave)
  except BadAudio as error:
    raise DataError(f"{str(path)!r}: {error}") from None
  if not len(wave):
    raise DataError(f"{str(path)!r}: no samples")
  return decode.resample(decode.mono(wave), given, rate)
