"""TFRecord shards of tf.train.Example records, read at random by offset and without TensorFlow.

A record of the file is u64 length, u32 checksum of the length, data, u32 checksum of the data, all
little-endian. The scan checks the checksum of each length, so a damaged file cannot lead it astray;
the checksum of the data is left to the audio decoder, which has its own.
"""

import dataclasses
import os
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from pipelines import files, index
from pipelines.config import DataConfig
from pipelines.crc32c import masked_crc32c
from pipelines.decode import Payload, Samples
from pipelines.errors import BadAudio, DataError
from pipelines.sources import example
from pipelines.sources.shard import Row, ShardSource

_AUDIO_KEYS = ("audio", "wave", "waveform", "samples", "audio/samples", "flac", "wav", "mp3")
_RATE_KEYS = ("sample_rate", "sampling_rate", "rate", "audio/sample_rate")
_LABEL_KEYS = ("label", "class", "cls")
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
    path = self._paths[int(self.table["shards"][i])]
    offset, size = int(self.table["offset"][i]), int(self.table["size"][i])
    return _payload(files.read_range(path, offset, size), self._format), 0

  def _scan(self, path: str, size: int) -> Iterator[Row]:
    base = os.path.basename(path)
    for number, (offset, length, reason) in enumerate(record_offsets(path, size)):
      name, frames, rate, label = f"{base}#{number}", 0, 0, ""
      if not reason:
        try:
          data = files.read_range(path, offset, length)
          features = _parse(data)
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
    frames = len(audio) // _channels(features, self._format)
    return frames, _rate(features, self._format), "" if frames else "no samples"


def record_offsets(path: str, size: int) -> Iterator[tuple[int, int, str]]:
  """(offset of the data, its length, reason) of each record; a damaged tail is one bad row."""
  at = 0
  with files.open_binary(path) as file:
    while at < size:
      file.seek(at)
      head = file.read(12)
      if len(head) < 12:
        yield at, 0, f"{os.path.basename(path)} is cut short at byte {at}"
        return
      length, check = struct.unpack("<QI", head)
      if masked_crc32c(head[:8]) != check:
        if at == 0:
          raise DataError(f"{path} is not an uncompressed TFRecord file; unpack or rewrite it")
        yield at, 0, f"{os.path.basename(path)} is damaged at byte {at}; what follows is unreadable"
        return
      if at + 16 + length > size:
        yield at, 0, f"{os.path.basename(path)} ends inside the record at byte {at}"
        return
      yield at + 12, length, ""
      at += 16 + length


def _payload(data: bytes, fmt: RecordFormat) -> Payload:
  return _decode(_parse(data), fmt)


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
      data = zlib.decompress(data) if fmt.zipped else data
      samples = np.frombuffer(data, np.dtype(fmt.raw).newbyteorder("<"))
    except (zlib.error, ValueError) as error:
      raise BadAudio(f"audio bytes cannot be read: {error}") from None
  else:
    samples = audio.numbers()
  channels = _channels(features, fmt)
  wave = samples[: len(samples) // channels * channels].reshape(-1, channels)
  return Samples(_to_float(wave), _rate(features, fmt))


def _to_float(wave: np.ndarray) -> np.ndarray:
  if wave.dtype.kind == "f":
    return wave.astype(np.float32)
  full = (
    2.0**31 if wave.dtype.itemsize == 4 else 2.0**15
  )  # i64 is how features store 16-bit samples
  return (wave / full).astype(np.float32)


def _channels(features: dict[str, example.Feature], fmt: RecordFormat) -> int:
  return max(1, int(_text(features, ("channels",)) or fmt.channels))


def _rate(features: dict[str, example.Feature], fmt: RecordFormat) -> int:
  rate = int(float(_text(features, _RATE_KEYS) or fmt.rate))
  if rate < 1:
    raise BadAudio("record has plain samples and no sample_rate")
  return rate


def _text(features: dict[str, example.Feature], keys: Sequence[str]) -> str:
  return next((features[k].text() for k in keys if k in features and len(features[k])), "")
