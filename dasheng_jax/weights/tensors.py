"""Tensors that stay in their file until they are read, one at a time.

A weight file of 1.2 billion parameters fills 4.5 GB. Whoever passes over its tensors one by one, to
check or convert them, holds one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
  """One tensor of a file. dtype: NumPy's name, "bfloat16" included. read: its values, anew."""

  shape: tuple[int, ...]
  dtype: str
  read: Callable[[], np.ndarray]

  @property
  def bytes(self) -> int:
    """Size of its values."""
    return int(np.prod(self.shape, dtype=np.int64)) * itemsize(self.dtype)


def itemsize(dtype: str) -> int:
  """Bytes of one element."""
  return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def held(array: np.ndarray) -> Tensor:
  """A tensor that is in memory already."""
  return Tensor(array.shape, array.dtype.name, lambda: array)


class Arrays(Mapping[str, np.ndarray]):
  """Tensors as a mapping to arrays; each access reads."""

  def __init__(self, tensors: Mapping[str, Tensor]):
    self.tensors = tensors

  def __getitem__(self, name: str) -> np.ndarray:
    return self.tensors[name].read()

  def __iter__(self) -> Iterator[str]:
    return iter(self.tensors)

  def __len__(self) -> int:
    return len(self.tensors)
