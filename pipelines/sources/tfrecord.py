"""TFRecord shards of tf.train.Example records, read at random by offset and without TensorFlow.

A record of the file is u64 length, u32 checksum of the length, data, u32 checksum of the data, all
little-endian. The scan verifies both, and so does every later read, except where the audio is FLAC:
its decoder verifies a checksum per frame, and ours would cost a third of the time again.
"""

import dataclasses
import os
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from pipelines import decode, files, index
from pipelines.config import DataConfig
from pipelines.crc32c import masked_crc32c
from pipelines.decode import Payload, Samples
from pipelines.errors import BadAudio, DataError
from pipelines.sources import example
from pipelines.sources.shard import UNKNOWN, Row, ShardSource

_AUDIO_KEYS = ("audio", "wave", "waveform", "samples", "audio/samples", "flac", "wav", "mp3")
_RATE_KEYS = ("sample_rate", "sampling_rate", "rate", "audio/sample_rate")
_LABEL_KEYS = ("label", "class", "cls")
_MOST_RECORD_BYTES = 1 << 30  # it is read as a whole
_MOST_UNPACKED_BYTES = 1 << 28  # two hours of 16 bits at 16 kHz
_MOST_CHANNELS = 1024  # as libsndfile has it
_MAGIC = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM", b".snd")


@dataclasses.dataclass(frozen=True)
class RecordFormat:
  """How a record holds audio; "" and 0 mean: find out from the record."""

  audio: str = ""  # feature with the audio
  rate: int = 0  # Hz, for plain samples
  raw: str = "int16"  # NumPy type of plain samples stored as bytes
  zipped: bool = False  # whether those bytes went through zlib
  channels: int = 1
  label: str = ""
  id: str = "id"


class TFRecordSource(ShardSource):
  """Records with a feature `audio`: an encoded file, or plain samples with `sample_rate`.

  Plain samples are floats in [-1, 1], or integers of 16 bits (an int feature, or little-endian
  bytes). Optional: `channels` (interleaved), `id`, `label`.
  """

  kind = "tfrecord"

  def __init__(self, spec: str, paths: list[str], cfg: DataConfig, fmt: RecordFormat | None = None):
    self._format = fmt or RecordFormat()
    if fmt is not None:  # another reading of the same file is another index
      self.kind = f"tfrecord-{fmt}"
    super().__init__(os.path.basename(spec), paths, cfg, self._scan)

  def locate(self, i: int) -> tuple[Payload, int]:
    """The encoded file, or the samples, of recording i."""
    offset, size = int(self.table["offset"][i]), int(self.table["size"][i])
    data = files.read_range(self.place(i), offset, size + 4)
    payload = _decode(_parse(data[:size]), self._format)
    if not (isinstance(payload, bytes) and payload.startswith(b"fLaC")):
      _check_data(data)
    return payload, 0

  def _scan(self, path: str, size: int) -> Iterator[Row]:
    base = os.path.basename(path)
    for number, (offset, length, reason) in enumerate(record_offsets(path, size)):
      name, frames, rate, label = f"{base}#{number}", UNKNOWN if reason else 0, 0, ""
      if not reason:
        try:
          if length > _MOST_RECORD_BYTES:
            raise BadAudio(f"record of {length} bytes; at most {_MOST_RECORD_BYTES} are read")
          data = files.read_range(path, offset, length + 4)
          _check_data(data)
          features = _parse(data[:length])
          name = _text(features, (self._format.id,)) or name
          label = _text(features, (self._format.label,) if self._format.label else _LABEL_KEYS)
          frames, rate, reason = self._header(features)
        except BadAudio as error:
          reason = str(error)
      yield (name, frames, rate, offset, length, label, reason)

  def _header(self, features: dict[str, example.Feature]) -> tuple[int, int, str]:
    audio = _audio(features, self._format)
    if audio.kind == "bytes":
      payload = _decode(features, self._format)
      return index.header_or_reason(payload, 1)
    frames, rate = len(audio) // _channels(features, self._format), _rate(features, self._format)
    decode.check_rate(rate)
    return frames, rate, "" if frames else "no samples"


def record_offsets(path: str, size: int) -> Iterator[tuple[int, int, str]]:
  """(offset of the data, its length, reason) of each record.

  Where the file breaks off comes one last row, with the bytes from there to the end of the file.
  """
  at = 0
  with files.open_binary(path) as file:
    while at < size:
      file.seek(at)
      head = file.read(12)
      if len(head) < 12:
        yield at, size - at, f"{os.path.basename(path)} is cut short at byte {at}"
        return
      length, check = struct.unpack("<QI", head)
      if masked_crc32c(head[:8]) != check:
        if at == 0:
          raise DataError(f"{path} is not an uncompressed TFRecord file; unpack or rewrite it")
        reason = f"{os.path.basename(path)} is damaged at byte {at}; what follows is unreadable"
        yield at, size - at, reason
        return
      if at + 16 + length > size:
        yield at, size - at, f"{os.path.basename(path)} ends inside the record at byte {at}"
        return
      yield at + 12, length, ""
      at += 16 + length


def _check_data(data: bytes) -> None:
  """BadAudio where a record's data are not what the checksum in their last four bytes says."""
  (stated,) = struct.unpack("<I", data[-4:])
  if masked_crc32c(data[:-4]) != stated:
    raise BadAudio("the checksum of its record is wrong")


def _parse(data: bytes) -> dict[str, example.Feature]:
  try:
    return example.parse(data)
  except ValueError as error:
    raise BadAudio(f"record is no tf.train.Example ({error})") from None


def _audio(features: dict[str, example.Feature], fmt: RecordFormat) -> example.Feature:
  for key in (fmt.audio,) if fmt.audio else _AUDIO_KEYS:
    if key in features and len(features[key]):
      return features[key]
  raise BadAudio(f"record has no audio feature among {', '.join(sorted(features)) or 'none'}")


def _decode(features: dict[str, example.Feature], fmt: RecordFormat) -> Payload:
  audio = _audio(features, fmt)
  if audio.kind == "bytes":
    data = audio.first_bytes()
    if data.startswith(_MAGIC) or (data[:1] == b"\xff" and len(data) > 1 and data[1] >= 0xE0):
      return data
    if not (fmt.rate or _text(features, _RATE_KEYS)):
      return data  # unknown: let the decoder name what is wrong with it
    try:
      data = _unzipped(data) if fmt.zipped else data
      samples = np.frombuffer(data, np.dtype(fmt.raw).newbyteorder("<"))
    except (zlib.error, ValueError, MemoryError) as error:
      raise BadAudio(f"audio bytes cannot be read: {error}") from None
  else:
    samples = audio.numbers()
  channels = _channels(features, fmt)
  wave = samples[: len(samples) // channels * channels].reshape(-1, channels)
  return Samples(_to_float(wave), _rate(features, fmt))


def _unzipped(data: bytes) -> bytes:
  """What went through zlib, unless a few bytes of it would fill the memory."""
  stream = zlib.decompressobj()
  plain = stream.decompress(data, _MOST_UNPACKED_BYTES)
  if not stream.eof:
    raise ValueError("cut short" if not stream.unconsumed_tail else "too long")
  return plain


def _to_float(wave: np.ndarray) -> np.ndarray:
  if wave.dtype.kind == "f":
    return wave.astype(np.float32)
  full = (
    2.0**31 if wave.dtype.itemsize == 4 else 2.0**15
  )  # i64 is how features store 16-bit samples
  return (wave / full).astype(np.float32)


def _channels(features: dict[str, example.Feature], fmt: RecordFormat) -> int:
  text = _text(features, ("channels",))
  try:
    channels = int(text or fmt.channels)
  except ValueError:
    raise BadAudio(f"record has channels {text[:40]!r}, which is no number") from None
  if channels > _MOST_CHANNELS:
    raise BadAudio(f"record has {channels} channels; at most {_MOST_CHANNELS} are read")
  return max(1, channels)


def _rate(features: dict[str, example.Feature], fmt: RecordFormat) -> int:
  text = _text(features, _RATE_KEYS)
  try:
    rate = int(float(text or fmt.rate))
  except (ValueError, OverflowError):
    raise BadAudio(f"record has sample_rate {text[:40]!r}, which is no number of Hz") from None
  if rate < 1:
    raise BadAudio("record has plain samples and no sample_rate")
  return rate


def _text(features: dict[str, example.Feature], keys: Sequence[str]) -> str:
  return next((features[k].text() for k in keys if k in features and len(features[k])), "")
