"""CRC-32C (Castagnoli), the checksum of TFRecord files and of TensorBoard's event files."""

import functools

import numpy as np


def crc32c(data: bytes) -> int:
  """CRC-32C (Castagnoli) of bytes of any length.

  A checksum runs byte after byte, which Python is slow at. It is linear, though: the data is cut
  into rows that run side by side as one NumPy vector, and the rows' results are joined by shifting.
  """
  table = _table()
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
  crc = crc32c(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _table() -> np.ndarray:
  """u32[256]: what a byte does to the checksum (reflected polynomial 0x82F63B78)."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = (table >> np.uint32(1)) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
  return table


@functools.lru_cache(256)
def _shift_tables(width: int) -> list[list[int]]:
  """For each byte of a checksum, what it becomes after `width` zero bytes."""
  table = _table()
  states = np.arange(256, dtype=np.uint32)[None, :] << (8 * np.arange(4, dtype=np.uint32))[:, None]
  for _ in range(width):
    states = table[states & np.uint32(255)] ^ (states >> np.uint32(8))
  return states.tolist()
