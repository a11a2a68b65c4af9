"""Writers of TFRecord and WebDataset tar files that note where each record's bytes lie."""

import io
import json
import struct
import tarfile
from typing import BinaryIO, NamedTuple, Protocol

from pipelines.crc32c import masked_crc32c


class Record(NamedTuple):
  """One recording to be stored."""

  number: int  # over all shards, unique
  id: str
  label: str
  audio: bytes  # an encoded file
  suffix: str  # of that file, such as ".flac"
  frames: int
  rate: int


class ShardWriter(Protocol):
  """Writes records to an open file."""

  def add(self, record: Record) -> tuple[int, int]:
    """Writes a record; returns the offset and size of what a source reads back."""
    ...

  def finish(self) -> None:
    """Writes what closes the file."""
    ...


class TFRecordWriter:
  """Records as tf.train.Example: audio, id, label (if any), sample_rate, frames."""

  suffix = ".tfrecord"

  def __init__(self, file: BinaryIO):
    self._file, self._at = file, 0

  def add(self, record: Record) -> tuple[int, int]:
    """Writes a record; returns the offset and size of the serialised Example."""
    fields: dict[str, bytes | int] = {
      "audio": record.audio,
      "frames": record.frames,
      "id": record.id.encode("utf-8", "surrogateescape"),
      "sample_rate": record.rate,
    }
    if record.label:
      fields["label"] = record.label.encode()
    data = serialize_example(fields)
    length = struct.pack("<Q", len(data))
    frame = (length, struct.pack("<I", masked_crc32c(length)), data)
    self._file.write(b"".join((*frame, struct.pack("<I", masked_crc32c(data)))))
    offset = self._at + 12
    self._at += 16 + len(data)
    return offset, len(data)

  def finish(self) -> None:
    """A TFRecord file has no end mark."""


class TarWriter:
  """Records as members NUMBER.flac (or another suffix) and NUMBER.json with id and label."""

  suffix = ".tar"

  def __init__(self, file: BinaryIO):
    self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

  def add(self, record: Record) -> tuple[int, int]:
    """Writes a record; returns the offset and size of its audio."""
    key = f"{record.number:09d}"
    place = self._member(key + record.suffix, record.audio)
    note = {"id": record.id, "sample_rate": record.rate, "frames": record.frames}
    if record.label:
      note["label"] = record.label
    self._member(key + ".json", json.dumps(note).encode())
    return place

  def _member(self, name: str, data: bytes) -> tuple[int, int]:
    info = tarfile.TarInfo(name)  # owner and time stay zero: the same data gives the same file
    info.size = len(data)
    self._tar.addfile(info, io.BytesIO(data))
    blocks = -(-len(data) // tarfile.BLOCKSIZE)
    return self._tar.offset - blocks * tarfile.BLOCKSIZE, len(data)

  def finish(self) -> None:
    """Writes the two empty blocks at the end."""
    self._tar.close()


WRITERS: dict[str, type[TFRecordWriter] | type[TarWriter]] = {
  "tfrecord": TFRecordWriter,
  "tar": TarWriter,
}


def serialize_example(fields: dict[str, bytes | int]) -> bytes:
  """A tf.train.Example with one bytes or non-negative integer value per feature."""
  entries = b""
  for name, value in sorted(fields.items()):
    if isinstance(value, bytes):
      feature = _block(1, _block(1, value))
    else:
      feature = _block(3, _block(1, _varint(value)))
    entries += _block(1, _block(1, name.encode()) + _block(2, feature))
  return _block(1, entries)


def _block(field: int, data: bytes) -> bytes:
  return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
  out = bytearray()
  while value > 127:
    out.append(value & 127 | 128)
    value >>= 7
  out.append(value)
  return bytes(out)
