"""Audio with structure and labels, made from nothing: runs, demos and tests need no file on disk.

Ten kinds of sound (`CLASSES`), each with wide variety within the class: pitch, tempo, timbre and
material are drawn per clip, and so are the colour of the recording, its echo, noise and level
(`synthesis/room.py`). Averages over time therefore tell the classes apart only in part; the order
of events tells the rest.

Clip i of seed s is a pure function of (s, i, seconds, sample_rate): its numbers come from the
counter-based generator Philox (Salmon et al. 2011) with the key (s, i), so any clip can be made
alone, in any order and in any process. The bits may change with the versions of NumPy and SciPy, as
their generators and filters may.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from pipelines.errors import DataError
from pipelines.synthesis import machines, nature, notes, room, voice

INSTRUMENTS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
  "voice": voice.voice,
  "plucked": notes.plucked,
  "bowed": notes.bowed,
  "struck": notes.struck,
  "bell": notes.bell,
  "engine": machines.engine,
  "siren": machines.siren,
  "knock": machines.knock,
  "rain": nature.rain,
  "bird": nature.bird,
}
CLASSES: tuple[str, ...] = tuple(INSTRUMENTS)


def label_of(index: int) -> int:
  """Class number of clip `index`: round robin, so that any run of ten clips is balanced."""
  return index % len(CLASSES)


def render(
  index: int, seed: int = 0, seconds: float | int = 10.0, sample_rate: int = 16_000
) -> tuple[np.ndarray, int]:
  """Makes clip `index` of the corpus `seed`: (wave f32[samples] in [-1, 1], class number).

  Raises DataError for a negative index or seed, less than half a second, or a rate under 8 kHz.
  """
  if index < 0 or seed < 0:
    raise DataError(f"synthetic: index {index} and seed {seed} must not be negative")
  if not (math.isfinite(seconds) and seconds >= 0.5):
    raise DataError(f"synthetic: seconds={seconds} is too short; use at least 0.5")
  if sample_rate < 8000:
    raise DataError(f"synthetic: sample_rate={sample_rate} is too low; use at least 8000")
  rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
  label = label_of(index)
  samples = round(seconds * sample_rate)
  wave = INSTRUMENTS[CLASSES[label]](rng, samples, sample_rate)
  return room.finish(rng, wave, sample_rate), label


class SyntheticSource:
  """The corpus as a source of recordings: `clips` clips of `seconds` at 16 kHz mono.

  Attributes: name; ids, such as "synthetic/000123-bell"; frames i64[n]; rates i32[n]; labels
  i32[n]; shards, always None. Nothing is stored: `read` makes the clip anew.
  """

  in_memory = True

  def __init__(
    self, clips: int = 1000, seconds: float | int = 10.0, seed: int = 0, sample_rate: int = 16_000
  ):
    if clips < 1:
      raise DataError(f"synthetic: clips={clips} makes an empty corpus; use at least 1")
    self.name = "synthetic"
    self.seconds, self.seed, self.sample_rate = seconds, seed, sample_rate
    self.classes = CLASSES
    self.labels = np.arange(clips, dtype=np.int32) % len(CLASSES)
    self.ids: Sequence[str] = [f"synthetic/{i:06d}-{CLASSES[label_of(i)]}" for i in range(clips)]
    self.frames = np.full(clips, round(seconds * sample_rate), np.int64)
    self.rates = np.full(clips, sample_rate, np.int32)
    self.shards = None

  def __len__(self) -> int:
    return len(self.ids)

  def read(self, i: int, start: int, stop: int) -> tuple[np.ndarray, int]:
    """Samples [start, stop) of clip i, fewer where it ends: (f32[samples, 1], sample rate)."""
    wave, _ = render(i, self.seed, self.seconds, self.sample_rate)
    return wave[start:stop, None], self.sample_rate
