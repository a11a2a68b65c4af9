"""Writers of TFRecord and WebDataset tar files that note where each record's bytes lie."""

import functools
import io
import json
import struct
import tarfile
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np


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
    frame = (length, struct.pack("<I", _mask(crc32c(length))), data)
    self._file.write(b"".join((*frame, struct.pack("<I", _mask(crc32c(data))))))
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


def crc32c(data: bytes) -> int:
  """CRC-32C (Castagnoli) of bytes of any length.

  A checksum runs byte after byte, which Python is slow at. It is linear, though: the data is cut
  into rows that run side by side as one NumPy vector, and the rows' results are joined by shifting.
  """
  table = crc_table()
  width = max(16, int(len(data) ** 0.5))
  whole = len(data) // width * width
  columns = np.frombuffer(data, np.uint8, whole).reshape(-1, width).T.astype(np.uint32)
  states = np.zeros(columns.shape[1], np.uint32)
  for column in columns:
    states = table[(states ^ column) & np.uint32(255)] ^ (states >> np.uint32(8))
  shift = _shift_tables(width)
  crc = 0xFFFFFFFF
  for state in states.tolist():
    crc = (
      shift[0][crc & 255]
      ^ shift[1][crc >> 8 & 255]
      ^ shift[2][crc >> 16 & 255]
      ^ shift[3][crc >> 24]
    ) ^ state
  values = table.tolist() if len(data) - whole > 64 else table
  for byte in data[whole:]:
    crc = int(values[(crc ^ byte) & 255]) ^ (crc >> 8)
  return crc ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
  """CRC-32C, rotated and shifted as TFRecord files store it."""
  return _mask(crc32c(data))


@functools.cache
def crc_table() -> np.ndarray:
  """u32[256]: what a byte does to the checksum (reflected polynomial 0x82F63B78)."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = (table >> np.uint32(1)) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
  return table


@functools.lru_cache(256)
def _shift_tables(width: int) -> list[list[int]]:
  """For each byte of a checksum, what it becomes after `width` zero bytes."""
  table = crc_table()
  states = np.arange(256, dtype=np.uint32)[None, :] << (8 * np.arange(4, dtype=np.uint32))[:, None]
  for _ in range(width):
    states = table[states & np.uint32(255)] ^ (states >> np.uint32(8))
  return states.tolist()


def _mask(crc: int) -> int:
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _block(field: int, data: bytes) -> bytes:
  return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
  out = bytearray()
  while value > 127:
    out.append(value & 127 | 128)
    value >>= 7
  out.append(value)
  return bytes(out)
