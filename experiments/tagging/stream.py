"""Tags of a live stream: raw PCM into a ring buffer, a line of tags for every hop.

The ring holds the last `window` seconds, so one compiled program serves the whole stream. Before
it is full, what has come is repeated from its start until the ring is filled. Silence in place of
what is missing would be further from the truth: docs/tagging.md has the figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import soxr

from pipelines.decode import check_finite, mono
from pipelines.errors import BadAudio

PcmFormat = Literal["s16le", "f32le"]
_TYPES: dict[PcmFormat, tuple[str, float]] = {"s16le": ("<i2", 1 / 32768), "f32le": ("<f4", 1.0)}
STANDARD_INPUT = "standard input"
CHUNK_BYTES = 1 << 14  # at most, so that a line is not late by more than this


class Line(NamedTuple):
  """The last (end - start) seconds of a stream and the probabilities f32[classes] of its tags."""

  start: float
  end: float
  probabilities: np.ndarray


def pcm_waves(source: BinaryIO, fmt: PcmFormat, channels: int, rate: int, target: int):
  """Yields mono f32[s] at `target` Hz from interleaved PCM at `rate` Hz, as soon as it comes.

  A last frame that is not whole is left out. Raises BadAudio, which names standard input, for
  samples that are not finite.
  """
  kind, scale = _TYPES[fmt]
  size = np.dtype(kind).itemsize * channels
  convert = soxr.ResampleStream(rate, target, 1, dtype="float32", quality="HQ")
  # `read1` gives what is there; `read` would wait for all of it.
  read = getattr(source, "read1", source.read)
  rest = b""
  while data := read(CHUNK_BYTES):
    data = rest + data
    whole = len(data) // size * size
    rest = data[whole:]
    samples = np.frombuffer(data[:whole], kind).astype(np.float32) * np.float32(scale)
    try:
      check_finite(samples)
    except BadAudio as error:
      raise BadAudio(f"{STANDARD_INPUT}: {error}; check --format, which is {fmt}") from None
    wave = mono(samples.reshape(-1, channels))
    yield wave if rate == target else convert.resample_chunk(wave)
  if rate != target:
    yield convert.resample_chunk(np.zeros(0, np.float32), last=True)


class Ring:
  """The last `size` samples of a stream."""

  def __init__(self, size: int):
    self._held = np.zeros(size, np.float32)
    self.total = 0

  def push(self, wave: np.ndarray) -> None:
    """Adds samples; the oldest go."""
    size = len(self._held)
    self.total += len(wave)
    wave = wave[-size:]
    self._held[: size - len(wave)] = self._held[len(wave) :]
    self._held[size - len(wave) :] = wave

  def window(self) -> np.ndarray:
    """f32[size]: what came last, repeated from its start while there is less than `size`."""
    heard = min(self.total, len(self._held))
    return np.resize(self._held[len(self._held) - heard :], len(self._held))


def tag_stream(
  waves: Iterable[np.ndarray],
  probabilities: Callable[[np.ndarray], np.ndarray],
  *,
  rate: int,
  window: int,
  hop: int,
  slow: Callable[[float], None] = lambda seconds: None,
  clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Line]:
  """Yields a line after every `hop` samples, and one for what is left at the end of the stream.

  Args:
    waves: f32[s] of any lengths, as they come, at `rate` Hz.
    probabilities: f32[1, window] -> f32[1, classes].
    rate: Hz.
    window: samples that a line looks back on.
    hop: samples between lines.
    slow: called once, with the seconds that a line takes, when the lines have fallen behind a live
      source by more than one hop.
    clock: seconds, for tests.

  Raises BadAudio for a stream without a sample, and for tags that are not finite.
  """
  ring, since, behind, said = Ring(window), 0, 0.0, False
  for wave in waves:
    while len(wave):
      part, wave = wave[: hop - since], wave[hop - since :]
      ring.push(part)
      since += len(part)
      if since < hop:
        continue
      since, began = 0, clock()
      yield _line(ring, probabilities, rate, window)
      took = clock() - began
      behind = max(0.0, behind + took - hop / rate)
      if behind > hop / rate and not said:
        said = True
        slow(took)
  if not ring.total:
    raise BadAudio(f"{STANDARD_INPUT}: no audio came; pipe raw PCM into it")
  if since:
    yield _line(ring, probabilities, rate, window)


def _line(ring: Ring, probabilities: Callable, rate: int, window: int) -> Line:
  end = ring.total / rate
  found = probabilities(ring.window()[None])[0]
  if not np.isfinite(found).all():
    raise BadAudio(
      f"{STANDARD_INPUT}: its tags are not finite; check --format: are its samples within [-1, 1]?"
    )
  return Line(max(0.0, end - window / rate), end, found)
