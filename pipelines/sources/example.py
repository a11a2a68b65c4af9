"""Reads serialised tf.train.Example records without TensorFlow.

Wire format (protobuf): Example{1: Features}, Features{1: map entry}, entry{1: key, 2: Feature},
Feature{1: BytesList, 2: FloatList, 3: Int64List}, each list with field 1, numbers packed or not.
Values stay as they are stored until asked for, so an index scan never unpacks samples.
"""

from collections.abc import Iterator

import numpy as np

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KINDS = {1: "bytes", 2: "float", 3: "int"}


class Feature:
  """One feature: `kind` is "bytes", "float" or "int"; `count` values."""

  def __init__(self, kind: str, chunks: list[memoryview]):
    self.kind, self._chunks = kind, chunks

  def __len__(self) -> int:
    if self.kind == "bytes":
      return len(self._chunks)
    if self.kind == "float":
      return sum(len(c) for c in self._chunks) // 4
    return sum(int(np.count_nonzero(_bytes(c) < 128)) for c in self._chunks)

  def first_bytes(self) -> bytes:
    """The first value of a bytes feature, b"" when there is none."""
    return bytes(self._chunks[0]) if self.kind == "bytes" and self._chunks else b""

  def numbers(self) -> np.ndarray:
    """f32[n] of a float feature, i64[n] of an int feature."""
    data = b"".join(self._chunks)
    return np.frombuffer(data, "<f4") if self.kind == "float" else unpack_varints(data)

  def text(self) -> str:
    """The first value as text, such as "7" or "dog"; "" when empty."""
    if not len(self):
      return ""
    if self.kind == "bytes":
      return self.first_bytes().decode("utf-8", "replace")
    return f"{self.numbers()[0]:g}" if self.kind == "float" else str(self.numbers()[0])


def parse(record: bytes) -> dict[str, Feature]:
  """Features by name; ValueError when the bytes are no Example."""
  features = {}
  for field, _, value in _fields(memoryview(record)):
    for inner, _, entry in _fields(value) if field == 1 else ():
      if inner != 1:
        continue
      parts = {number: data for number, _, data in _fields(entry)}
      for kind, _, values in _fields(parts.get(2, memoryview(b""))):
        name = bytes(parts.get(1, b"")).decode("utf-8", "replace")
        chunks = [data for number, _, data in _fields(values) if number == 1]
        features[name] = Feature(_KINDS.get(kind, "bytes"), chunks)
  return features


def unpack_varints(data: bytes) -> np.ndarray:
  """Protobuf varints to i64, seven bits per byte, low bits first, vectorised over all values."""
  raw = np.frombuffer(data, np.uint8)
  ends = np.flatnonzero(raw < 128)
  starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
  lengths = ends - starts + 1
  values = np.zeros(len(ends), np.uint64)
  for k in range(int(lengths.max(initial=0))):
    longer = np.flatnonzero(lengths > k)
    bits = (raw[starts[longer] + k] & 127).astype(np.uint64)
    values[longer] |= bits << np.uint64(7 * k)
  return values.view(np.int64)


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
  """(field number, wire type, value) of each field; numbers keep their encoded bytes."""
  at = 0
  while at < len(data):
    tag, at = _varint(data, at)
    field, wire = tag >> 3, tag & 7
    start = at
    if wire == _BYTES:
      length, start = _varint(data, at)
      at = start + length
    elif wire == _VARINT:
      _, at = _varint(data, at)
    elif wire in (_FIXED32, _FIXED64):
      at += 4 if wire == _FIXED32 else 8
    else:
      raise ValueError(f"wire type {wire}")
    if at > len(data):
      raise ValueError("cut short")
    yield field, wire, data[start:at]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
  value = shift = 0
  while True:
    if at >= len(data) or shift > 63:
      raise ValueError("cut short")
    byte = data[at]
    value |= (byte & 127) << shift
    at, shift = at + 1, shift + 7
    if byte < 128:
      return value, at


def _bytes(chunk: memoryview) -> np.ndarray:
  return np.frombuffer(chunk, np.uint8)
