"""CRC-32C (Castagnoli), the checksum of TFRecord files and of TensorBoard's event files."""

import functools

import numpy as np

_WIDTH = 128  # bytes per row; even


def crc32c(data: bytes) -> int:
  """CRC-32C (Castagnoli) of bytes of any length.

  A checksum runs byte after byte, which Python is slow at. It is linear, though: the data is cut
  into rows that run side by side as one NumPy vector, two bytes at a time, and the rows' results
  are joined in pairs, shifting the left one by the length of the right one.
  """
  if len(data) < 16 * _WIDTH:
    return _bytewise(data, 0xFFFFFFFF) ^ 0xFFFFFFFF
  # Begun with all ones is begun with zero and the first four bytes inverted; and a sum that begins
  # with zero does not mind zeros put in front to fill the first row.
  rows = -(-len(data) // _WIDTH)
  padded = np.zeros(rows * _WIDTH, np.uint8)
  start = padded.size - len(data)
  padded[start:] = np.frombuffer(data, np.uint8)
  padded[start : start + 4] ^= 255
  table = _table_of_pairs()
  columns = np.ascontiguousarray(padded.view("<u2").reshape(rows, -1).T)
  states = np.zeros(rows, np.uint32)
  for column in columns:
    pairs = (states ^ column).astype(np.uint16)  # keeps the low half
    states >>= np.uint32(16)
    states ^= table[pairs]
  return _joined(states) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
  """CRC-32C, rotated and shifted as TFRecord files store it."""
  crc = crc32c(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _bytewise(data: bytes, state: int) -> int:
  table = _table_list()
  for byte in data:
    state = table[(state ^ byte) & 255] ^ (state >> 8)
  return state


def _joined(states: np.ndarray) -> int:
  """The checksum of all rows behind one another, each begun with zero."""
  doublings = 0
  while len(states) > 1:
    if len(states) % 2:
      states = np.concatenate([np.zeros(1, np.uint32), states])
    states = _apply(_shift(doublings), states[::2]) ^ states[1::2]
    doublings += 1
  return int(states[0])


@functools.cache
def _table() -> np.ndarray:
  """u32[256]: what a byte does to the checksum (reflected polynomial 0x82F63B78)."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = (table >> np.uint32(1)) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
  return table


@functools.cache
def _table_list() -> list[int]:
  return _table().tolist()


@functools.cache
def _table_of_pairs() -> np.ndarray:
  """u32[65536]: what two bytes do."""
  states = np.arange(1 << 16, dtype=np.uint32)
  for _ in range(2):
    states = _table()[states & np.uint32(255)] ^ (states >> np.uint32(8))
  return states


def _apply(shift: np.ndarray, states: np.ndarray) -> np.ndarray:
  """States after the zeros that a table of `_shift` stands for."""
  low = [shift[k][(states >> np.uint32(8 * k)) & np.uint32(255)] for k in range(4)]
  return low[0] ^ low[1] ^ low[2] ^ low[3]


@functools.cache
def _shift(doublings: int) -> np.ndarray:
  """u32[4, 256]: for each byte of a state, what it becomes after _WIDTH * 2**doublings zeros."""
  if doublings:
    half = _shift(doublings - 1)
    return _apply(half, half)
  states = np.arange(256, dtype=np.uint32)[None, :] << (8 * np.arange(4, dtype=np.uint32))[:, None]
  for _ in range(_WIDTH):
    states = _table()[states & np.uint32(255)] ^ (states >> np.uint32(8))
  return states
