"""Readers to be fuzzed, each with the files that are damaged and what it may do with them.

`read(number, damage)` gives a damaged version of original `number` to the reader and says whether
it was refused; whatever is not allowed raises. A refusal is one of our own errors, in one line.
"""

import pathlib
from typing import ClassVar

from tests.faults.damage import Damage

OURS = ("pipelines", "dasheng_jax", "experiments")


class Reader:
  """Base of all: `originals` are the undamaged files."""

  originals: ClassVar[list[bytes]] = []

  def __init__(self, folder: pathlib.Path):
    self.folder = folder

  def read(self, number: int, damage: Damage) -> bool:
    """True where the damaged file was refused; raises where something else is wrong."""
    raise NotImplementedError


def assert_refusal(error: Exception) -> None:
  """An error of ours, in one line of readable length."""
  assert type(error).__module__.partition(".")[0] in OURS, repr(error)
  text = str(error)
  assert text, repr(error)
  assert "\n" not in text, repr(error)
  assert len(text) < 1000, repr(error)
