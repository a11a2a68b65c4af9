"""Encoded audio to samples: libsndfile for the formats, soxr for the rate."""

import contextlib
import io
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from pipelines import crew, files
from pipelines.containers import contradiction
from pipelines.errors import BadAudio
from pipelines.files import RangeFile

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au")
SHORT_FRAMES = 4096
"""Frames by which a recording may end early: lossy codecs state their length to a block or two."""
RATES = (100, 2_000_000)
"""Hz; a header that says anything else is damaged."""
_UNKNOWN_FRAMES = 1 << 48
_LOUDEST = 16.0  # times full scale, which sound lossy files overshoot by little
# No codec makes a byte of more: silence is 65,535 samples in nine bytes of FLAC.
_FRAMES_PER_BYTE = 8192
_MARGIN_SECONDS = 0.02
_BLOCK_FRAMES = 1 << 22  # decoded between two signs of life


class Samples(NamedTuple):
  """Audio that is stored as plain samples: f32[samples, channels] in [-1, 1], rate in Hz."""

  wave: np.ndarray
  rate: int


Payload = str | bytes | RangeFile | Samples
"""A local path, an encoded file in memory, a stretch of a larger file, or plain samples."""


def header(payload: Payload) -> tuple[int, int]:
  """(frames, rate in Hz) from the header; BadAudio when it cannot be read, or cannot be true."""
  if isinstance(payload, Samples):
    check_rate(payload.rate)
    return len(payload.wave), payload.rate
  with _opened(payload) as file:
    size, wrong = _look(payload)
    frames = file.frames
    if frames > _UNKNOWN_FRAMES:  # a stream without a stated length: count by decoding
      block = np.empty((65536, file.channels), np.float32)
      frames = 0
      while count := len(file.read(out=block)):
        frames += count
        crew.alive()
    if wrong:
      raise BadAudio(wrong)
    check_rate(file.samplerate)
    if not 0 <= frames <= _FRAMES_PER_BYTE * size:
      raise BadAudio(f"header says {frames} samples, which {size} bytes cannot hold")
    return frames, file.samplerate


def _look(payload: str | bytes | RangeFile) -> tuple[int, str]:
  """(size in bytes, what contradicts itself) of an encoded file."""
  if isinstance(payload, bytes):
    return len(payload), contradiction(lambda at, most: payload[at : at + most])
  if isinstance(payload, RangeFile):
    return payload.size, contradiction(payload.read_at)
  with RangeFile(payload, 0, os.path.getsize(payload)) as file:
    return file.size, contradiction(file.read_at)


def read_span(
  payload: Payload, start: int, stop: int, out: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
  """Decodes native samples [start, stop); fewer where the recording ends before.

  Args:
    payload: the audio.
    start: first sample, at the file's own rate.
    stop: sample after the last one.
    out: f32[>= stop - start] that a mono file is decoded into without a copy.

  Returns:
    f32[samples, channels], or f32[samples] inside `out` where that was used; and the rate in Hz.

  Raises:
    BadAudio: absent, damaged, or not finite in this span.
  """
  if isinstance(payload, Samples):
    check_finite(payload.wave[start:stop])
    return payload.wave[start:stop], payload.rate
  with _opened(payload) as file:
    if start and file.seek(min(start, file.frames)) < start:
      return np.zeros((0, file.channels), np.float32), file.samplerate
    shape = (stop - start, file.channels)
    into = out if out is not None and file.channels == 1 else np.empty(shape, np.float32)
    wave = _read_blocks(file, into[: stop - start])
    if not file.subtype.startswith("PCM_"):  # integers cannot decode to NaN, so save the look
      check_finite(wave)
      if file.subtype not in ("FLOAT", "DOUBLE"):
        _check_level(wave)
    return wave, file.samplerate


def _read_blocks(file: soundfile.SoundFile, out: np.ndarray) -> np.ndarray:
  """Decodes into `out`, with a sign of life after each block; the part of it that was filled."""
  # soundfile seeks after each read to where it is, which MP3 decoders do not survive unharmed.
  step = len(out) if file.format == "MP3" else _BLOCK_FRAMES
  done = 0
  while done < len(out):
    block = out[done : done + step]
    count = len(file.read(out=block))
    done += count
    if count < len(block):
      break
    crew.alive()
  return out[:done]


def fill(
  out: np.ndarray, source, i: int, start: int, rate: int, frames: int, target_rate: int
) -> int:
  """Writes one clip of a source's recording into a row: mono, resampled, zeros after its end.

  The clip equals the same stretch of the recording resampled as a whole: a little more is decoded
  on either side, so the resampler has no edge inside.

  Args:
    out: f32[samples] at target_rate.
    source: a `pipelines.sources.Source`.
    i: the recording.
    start: first sample at the recording's own rate.
    rate: Hz, as the index has it.
    frames: length of the recording in samples, as the index has it.
    target_rate: Hz.

  Returns:
    Valid samples in `out`, at least 1.

  Raises:
    BadAudio: damaged, absent, shorter than its header said, or not finite.
  """
  stop = min(frames, start + math.ceil(len(out) * rate / target_rate))
  if rate == target_rate:
    wave = _read(source, i, start, stop, rate, out)
    valid = len(wave)
    if not np.may_share_memory(wave, out):
      out[:valid] = wave
  else:
    first, last, skip = _with_margin(start, stop, frames, rate, target_rate)
    wave = resample(_read(source, i, first, last, rate), rate, target_rate)[skip:]
    valid = min(len(out), len(wave), max(1, (stop - start) * target_rate // rate))
    out[:valid] = wave[:valid]
  out[valid:] = 0.0
  return valid


def _read(
  source, i: int, start: int, stop: int, rate: int, out: np.ndarray | None = None
) -> np.ndarray:
  """Mono samples [start, stop) of a recording, inside `out` if that is possible."""
  if hasattr(source, "locate"):
    payload, first = source.locate(i)
    wave, found_rate = read_span(payload, first + start, first + stop, out)
  else:
    wave, found_rate = source.read(i, start, stop)
    check_finite(wave)
  check_length(len(wave), stop - start, found_rate, rate)
  return mono(wave)


def mono(wave: np.ndarray) -> np.ndarray:
  """Mean over channels: f32[s, c] -> f32[s]."""
  if wave.ndim == 1:
    return wave
  return wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1, dtype=np.float32)


def resample(wave: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
  """soxr, high quality: f32[s] -> f32[round(s * target_rate / rate)]."""
  if rate == target_rate or not len(wave):
    return wave
  return soxr.resample(wave, rate, target_rate, quality="HQ")


def check_finite(wave: np.ndarray) -> None:
  """Refuses NaN and infinity with BadAudio."""
  # The sum is not finite if any sample is not, at a third of the cost of looking at each; huge
  # finite samples can overflow it, so it only calls for the careful look.
  with np.errstate(over="ignore", invalid="ignore"):
    total = wave.sum()
  if not np.isfinite(total) and not np.isfinite(wave).all():
    bad = int(np.count_nonzero(~np.isfinite(wave)))
    raise BadAudio(f"{bad} of {len(wave)} samples are NaN or infinite")


def _check_level(wave: np.ndarray) -> None:
  """Refuses, with BadAudio, what only a damaged frame of a lossy codec decodes to."""
  loudest = max(float(wave.max(initial=0.0)), -float(wave.min(initial=0.0)))
  if loudest > _LOUDEST:
    raise BadAudio(f"damaged: decodes to {loudest:.3g} times full scale")


def check_rate(rate: int) -> None:
  """Refuses, with BadAudio, a rate that no recording has."""
  low, high = RATES
  if not low <= rate <= high:
    raise BadAudio(f"header says {rate} Hz, which is not within {low} to {high}")


def check_length(found: int, wanted: int, found_rate: int, rate: int) -> None:
  """Refuses, with BadAudio, a recording that is not what its index says."""
  if found_rate != rate:
    raise BadAudio(f"rate is {found_rate} Hz, the index says {rate} Hz: the file has changed")
  if found < max(1, wanted - SHORT_FRAMES):
    raise BadAudio(f"truncated: {wanted} samples were expected, {found} could be decoded")


def _with_margin(start: int, stop: int, frames: int, rate: int, target_rate: int):
  """Widens a span on both sides by a whole number of samples at both rates."""
  common = math.gcd(rate, target_rate)
  unit = rate // common
  margin = math.ceil(_MARGIN_SECONDS * rate / unit) * unit
  before = min(margin, start // unit * unit)
  return start - before, min(frames, stop + margin), before // unit * (target_rate // common)


class _InMemory(io.BytesIO):
  """Bytes as a file; a damaged header may send libsndfile before its start, where it stays at 0."""

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: len(self.getbuffer())}[whence]
    return super().seek(max(0, base + offset))


@contextlib.contextmanager
def _opened(payload: Payload) -> Iterator[soundfile.SoundFile]:
  """Opens audio; whatever libsndfile finds wrong, then or while reading, becomes BadAudio."""
  name = payload
  if isinstance(payload, bytes) and not payload:
    raise BadAudio("empty file")
  try:
    if isinstance(payload, str) and (kind := files.strange(os.stat(payload).st_mode)):
      raise BadAudio(f"is {kind}, no regular file")  # libsndfile would wait for a pipe
    stored = _InMemory(payload) if isinstance(payload, bytes) else payload
    with soundfile.SoundFile(stored) as file:
      if file.samplerate < 1 or file.channels < 1:
        raise BadAudio(f"header says {file.samplerate} Hz and {file.channels} channels")
      yield file
  except (soundfile.LibsndfileError, OSError, TypeError, OverflowError, MemoryError) as error:
    if isinstance(name, str) and not os.path.exists(name):
      raise BadAudio("absent") from None
    if isinstance(name, str) and os.path.getsize(name) == 0:
      raise BadAudio("empty file") from None
    reason = getattr(error, "error_string", None) or str(error)
    raise BadAudio(f"cannot be decoded: {' '.join(reason.split()).rstrip('.')}") from None
  finally:
    if isinstance(payload, RangeFile):
      payload.close()
