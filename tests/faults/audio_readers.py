"""Recordings as the pipeline reads them: header first, then a stretch of samples."""

import io
import pathlib
import struct

import numpy as np
import soundfile

from pipelines import decode, index
from pipelines.errors import BadAudio
from pipelines.files import RangeFile
from tests.faults.damage import Damage
from tests.faults.readers import Reader, assert_refusal

FRAMES = 3000


def tone(channels: int = 1) -> np.ndarray:
  """f[FRAMES, channels]: no two stretches alike, so that a shift would show."""
  t = np.arange(FRAMES)[:, None] / 8000
  noise = 0.05 * np.random.default_rng(0).standard_normal((FRAMES, channels))
  return 0.4 * np.sin(2 * np.pi * (200 + 150 * t) * t * (1 + np.arange(channels))) + noise


def encoded(kind: str, subtype: str, rate: int = 16_000, channels: int = 1) -> bytes:
  file = io.BytesIO()
  soundfile.write(file, tone(channels), rate, format=kind, subtype=subtype)
  return file.getvalue()


class Audio(Reader):
  """Reads recordings as bytes, as files and as stretches of a larger file, in turn."""

  def __init__(self, folder: pathlib.Path, kinds: list[bytes]):
    super().__init__(folder)
    self.originals = kinds
    self.waves = [self.load(data, 0, None) for data in kinds]
    self._turn = 0

  def load(self, payload, start: int, stop: int | None) -> tuple[np.ndarray, int]:
    """Samples and rate, by the pipeline's own two steps; BadAudio where either refuses."""
    size = len(payload) if isinstance(payload, bytes) else 1
    frames, rate, reason = index.header_or_reason(payload, size)
    if reason:
      raise BadAudio(reason)
    if isinstance(payload, RangeFile):  # one serves once
      payload = self._window
    stop = frames if stop is None else stop
    wave, found_rate = decode.read_span(payload, start, min(stop, frames))
    decode.check_length(len(wave), min(stop, frames) - start, found_rate, rate)
    return wave, rate

  def read(self, number: int, damage: Damage) -> bool:
    self._turn += 1
    payload = damage.data
    if self._turn % 3:
      path = self.folder / "recording.bin"
      path.write_bytes(damage.data)
      payload = str(path)
    if self._turn % 3 == 2:
      self._window = RangeFile(payload, 0, len(damage.data))
      payload = RangeFile(payload, 0, len(damage.data))
    start, stop = ((0, None), (700, 2100))[self._turn // 3 % 2]
    try:
      wave, rate = self.load(payload, start, stop)
    except BadAudio as error:
      assert_refusal(error)
      return True
    assert np.isfinite(wave).all()
    whole, whole_rate = self.waves[number]
    self.accept(damage, start, (wave, rate), (whole[start:stop], whole_rate), number)
    return False

  def accept(self, damage, start, found, original, number) -> None:
    """Raises unless (samples, rate) from `start` on are what this format may give."""
    wave, rate = found
    assert decode.RATES[0] <= rate <= decode.RATES[1]
    assert np.abs(wave).max(initial=0) <= 16


def is_beginning(wave: np.ndarray, original: np.ndarray) -> bool:
  """Whether samples are those of the original as far as they go."""
  return wave.shape[1:] == original.shape[1:] and np.array_equal(wave, original[: len(wave)])


class Flac(Audio):
  """Checksums cover every sample: what is accepted is the recording, or a beginning of it."""

  def __init__(self, folder: pathlib.Path):
    subtypes = (("PCM_16", 16_000, 1), ("PCM_24", 44_100, 2), ("PCM_16", 22_050, 1))
    super().__init__(folder, [encoded("FLAC", *s) for s in subtypes])

  def accept(self, damage, start, found, original, number) -> None:
    assert found[1] == original[1]
    assert is_beginning(found[0], original[0])


class Wav(Audio):
  """No checksum anywhere: samples may be wrong where their own bytes are damaged, and only there.

  A head that was damaged into another sound one is what its bytes say, by an independent reading.
  """

  def __init__(self, folder: pathlib.Path):
    subtypes = (("PCM_16", 16_000, 1), ("PCM_24", 44_100, 2), ("FLOAT", 16_000, 1))
    kinds = [encoded("WAV", *s) for s in subtypes]
    super().__init__(folder, [*kinds, encoded("WAVEX", "PCM_16", 16_000, 2)])
    self.heads = [says(data) for data in self.originals]

  def accept(self, damage, start, found, original, number) -> None:
    (wave, rate), (whole, whole_rate) = found, original
    if rate == whole_rate and is_beginning(wave, whole):
      return
    head = self.heads[number]
    if damage.low >= head.data:
      assert rate == whole_rate
      assert wave.shape[1:] == whole.shape[1:]
      first = (damage.low - head.data) // head.frame - start
      last = (damage.high - head.data) / head.frame - start
      for i in np.flatnonzero((wave != whole[: len(wave)]).any(axis=1)):
        assert first <= i < last, (i, first, last)
      return
    now = says(damage.data)
    assert now is not None, "what a head says that cannot be read"
    assert rate == now.rate
    assert wave.shape[1:] == (now.channels,)


class Says:
  """What the head of a WAV file says, read by itself."""

  def __init__(self, channels: int, rate: int, frame: int, data: int):
    self.channels, self.rate, self.frame, self.data = channels, rate, frame, data


def says(data: bytes) -> Says | None:
  at, fmt = 12, None
  while at + 8 <= len(data):
    name, size = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
    if name == b"fmt ":
      fmt = struct.unpack("<HHIIHH", data[at + 8 : at + 24])
    if name == b"data" and fmt:
      return Says(fmt[1], fmt[2], fmt[4], at + 8)
    if name == b"fact":  # libsndfile takes four bytes, even where their number has become 0
      size = max(size, 4)
    at += 8 + size + size % 2
  return None


class Lossy(Audio):
  """Ogg pages have checksums and decoders step over bad ones; MP3 has none: only sane samples."""

  def __init__(self, folder: pathlib.Path):
    kinds = [("OGG", "VORBIS", 16_000, 1), ("OGG", "OPUS", 16_000, 2)]
    kinds += [("MP3", "MPEG_LAYER_III", 16_000, 1), ("AIFF", "PCM_16", 16_000, 1)]
    kinds += [("AU", "ULAW", 8_000, 1)]
    super().__init__(folder, [encoded(*kind) for kind in kinds])


READERS = {"wav": Wav, "flac": Flac, "ogg, mp3, aiff, au": Lossy}
