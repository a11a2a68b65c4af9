"""TensorBoard scalars, written without TensorFlow, PyTorch or protobuf.

An event file is a row of records, each framed as length, checksum, bytes, checksum; the bytes are
the protocol-buffer message Event, of which a scalar needs five fields. Writing them ourselves keeps
the run free of writer packages, which import PyTorch where they find it and hide a full disk in a
background thread. Both formats are frozen: the field numbers are those of TensorFlow's
`event.proto` and `summary.proto`, the framing is that of TFRecord files.
"""

import os
import pathlib
import struct
import time
from collections.abc import Mapping

from experiments.training.whole_file import WholeFile
from pipelines.crc32c import masked_crc32c


def _varint(number: int) -> bytes:
  out = bytearray()
  while number > 0x7F:
    out.append(number & 0x7F | 0x80)
    number >>= 7
  return bytes([*out, number])


def _field(number: int, data: bytes) -> bytes:
  """A field of bytes, text or a message."""
  return _varint(number << 3 | 2) + _varint(len(data)) + data


def _event(step: int, *fields: bytes) -> bytes:
  return b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + b"".join(fields)


class EventWriter:
  """Appends scalars to an event file of its own in `folder`.

  With `start_step` above 0 TensorBoard hides what earlier files hold past that step. Every call of
  `scalars` reaches the system at once. Raises OSError where the folder cannot be written.
  """

  def __init__(self, folder: str | os.PathLike, start_step: int = 0):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # TensorBoard reads files in the order of their names: the time first, nanoseconds last.
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    name = f"events.out.tfevents.{seconds:010}.{nanoseconds:09}.{os.getpid()}"
    self._file = WholeFile(folder / name, anew=True)
    records = [_event(0, _field(3, b"brain.Event:2"))]
    if start_step:
      started = b"\x08\x01"  # SessionLog.status = START
      records.append(_event(start_step + 1, _field(7, started)))
    self._write(records)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the values of one step under their names, as one event."""
    summary = b"".join(
      _field(1, _field(1, name.encode()) + b"\x15" + struct.pack("<f", _single(value)))
      for name, value in values.items()
    )
    self._write([_event(step, _field(5, summary))])

  def close(self) -> None:
    """Ends the file."""
    self._file.close()

  def _write(self, records: list[bytes]) -> None:
    framed = b""
    for data in records:
      length = struct.pack("<Q", len(data))
      framed += length + struct.pack("<I", masked_crc32c(length))
      framed += data + struct.pack("<I", masked_crc32c(data))
    self._file.write(framed)


def _single(value: float) -> float:
  """`value` within the range of float32, past which `struct` refuses to pack."""
  try:
    struct.pack("<f", value)
  except OverflowError:
    return float("inf") if value > 0 else -float("inf")
  return value
