"""What every labelled set offers, and the two helpers that its readers share."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipelines.errors import BadAudio, DataError

SAMPLE_RATE = 16_000


@dataclasses.dataclass(frozen=True)
class LabelledSet:
  """A small labelled set for evaluation: every clip has one class, or tags, and is of one group.

  Groups are the parts of a leave-one-group-out evaluation: folds, or speakers.
  `labels` i32[n] index `classes`, or are 0 and 1 for each class, i32[n, classes]; `groups` holds
  one name per clip; `load(i)` returns clip i as f32[samples], mono, in [-1, 1], at 16 kHz or the
  given rate; `content(i)` is a text that other audio does not have, without decoding.
  """

  name: str
  ids: Sequence[str]
  labels: np.ndarray
  groups: Sequence[str]
  classes: Sequence[str]
  load: Callable[..., np.ndarray]  # (i, rate=SAMPLE_RATE)
  content: Callable[[int], str] | None = None

  def __post_init__(self):
    counts = {len(self.ids), len(self.labels), len(self.groups)}
    if counts == {0}:
      raise DataError(f"{self.name}: the set has no clips")
    if len(counts) != 1:
      raise DataError(
        f"{self.name}: {len(self.ids)} ids, {len(self.labels)} labels and "
        f"{len(self.groups)} groups differ"
      )
    if self.tagged:
      if self.labels.shape[1:] != (len(self.classes),) or not np.isin(self.labels, (0, 1)).all():
        raise DataError(f"{self.name}: tags must be 0 or 1 for each of {len(self.classes)} classes")
    elif self.labels.min() < 0 or self.labels.max() >= len(self.classes):
      raise DataError(f"{self.name}: labels must lie within 0..{len(self.classes) - 1}")

  def __len__(self) -> int:
    return len(self.ids)

  @property
  def tagged(self) -> bool:
    """Whether a clip can have several classes, or none."""
    return self.labels.ndim > 1

  def content_of(self, i: int, rate: int = SAMPLE_RATE) -> str:
    """Text of clip i that a clip with other samples at `rate` does not have."""
    if self.content is not None:
      return self.content(i)
    return hashlib.blake2b(self.load(i, rate).tobytes(), digest_size=16).hexdigest()

  def in_memory(self) -> LabelledSet:
    """The same set, which keeps each wave once it is loaded: 64 kB for a second at 16 kHz."""
    return dataclasses.replace(self, load=functools.cache(self.load))


def existing_folder(path: str, task: str, expected: str) -> Path:
  """The folder as a Path, or a DataError that says what was expected there."""
  folder = Path(path).expanduser()
  if not path or not folder.is_dir():
    raise DataError(f"{task}: no folder at {path!r}; give the folder that holds {expected}")
  return folder


def file_content(path: Path) -> str:
  """blake2b of a file's bytes, in hex. Raises DataError, naming a file that cannot be read."""
  try:
    with path.open("rb") as file:
      return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
  except OSError as error:
    raise DataError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None


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
