"""Tables of tags, [recordings, classes], in as little memory as their file takes."""

import numpy as np

from pipelines.errors import DataError


class PackedTargets:
  """Tags of 0 and 1 as bits: `targets[rows]` gives f32[rows, classes].

  Bits are packed big-endian, as `np.packbits` does and as the published HDF5 files hold them.

  Args:
    bits: u8[n, bytes].
    classes: how many of the bits count; the rest is padding and must be 0.

  Raises:
    DataError: bytes that do not fit the number of classes.
  """

  def __init__(self, bits: np.ndarray, classes: int):
    if bits.ndim != 2 or bits.dtype != np.uint8 or bits.shape[1] != -(-classes // 8):
      raise DataError(
        f"targets of {bits.dtype}{list(bits.shape)} are no packed bits of {classes} classes"
      )
    spare = 8 * bits.shape[1] - classes
    if spare and np.any(bits[:, -1] & ((1 << spare) - 1)):
      raise DataError(f"targets have bits set behind their {classes} classes; damaged or foreign")
    self.bits, self.classes = bits, classes

  @property
  def shape(self) -> tuple[int, int]:
    """(recordings, classes)."""
    return len(self.bits), self.classes

  def __len__(self) -> int:
    return len(self.bits)

  def __getitem__(self, rows) -> np.ndarray:
    return np.unpackbits(self.bits[rows], axis=-1, count=self.classes).astype(np.float32)

  def take(self, rows: np.ndarray) -> "PackedTargets":
    """The tags of some recordings."""
    return PackedTargets(self.bits[rows], self.classes)


def take(targets, rows: np.ndarray):
  """The rows of a table of targets, which stays packed if it is."""
  return targets.take(rows) if isinstance(targets, PackedTargets) else targets[rows]


def from_names(
  names: list[list[str]], classes: tuple[str, ...] | list[str], place: str
) -> PackedTargets:
  """Tags by name, one list per recording. DataError names the first that is no class."""
  number = {name: i for i, name in enumerate(classes)}
  marked = np.zeros((len(names), len(classes)), bool)
  for row, tags in enumerate(names):
    for tag in tags:
      if tag not in number:
        raise DataError(f"{place}: tag {tag!r} of recording {row} is not among the classes")
      marked[row, number[tag]] = True
  return PackedTargets(np.packbits(marked, axis=1), len(classes))
