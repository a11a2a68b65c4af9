"""Tensors that stay in their file until they are read, one at a time.

A weight file of 1.2 billion parameters fills 4.5 GB. Whoever passes over its tensors one by one, to
check or convert them, holds one at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from dasheng_jax.errors import WeightsError

FLOATING = ("float64", "float32", "float16", "bfloat16")
WHOLE_NUMBERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
# Every type of a tensor that we read.
READABLE = (*FLOATING, *WHOLE_NUMBERS, "bool")
# No axis of a network is longer, and no network deeper; a file may claim more than it holds.
LONGEST_AXIS = 1 << 17
DEEPEST = 1000


class Tensor(NamedTuple):
  """One tensor of a file. dtype: NumPy's name, "bfloat16" included. read: its values, anew."""

  shape: tuple[int, ...]
  dtype: str
  read: Callable[[], np.ndarray]

  @property
  def bytes(self) -> int:
    """Size of its values."""
    return math.prod(self.shape) * itemsize(self.dtype)


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


def headers(state: Mapping[str, np.ndarray]) -> Mapping[str, Tensor]:
  """The arrays of a state dict, unread."""
  if isinstance(state, Arrays):
    return state.tensors
  return {name: held(np.asarray(array)) for name, array in state.items()}


def told_shape(tensors: Mapping[str, Tensor], name: str, rank: int, source: str) -> tuple[int, ...]:
  """The shape of a tensor that tells a size of the model.

  Whoever derives a configuration from shapes reads them here, so WeightsError for a tensor that is
  absent, of another rank, or with an axis that is empty or longer than any network's.
  """
  if name not in tensors:
    raise WeightsError(f"{source}: missing {name}")
  shape = tensors[name].shape
  if len(shape) != rank or not all(1 <= size <= LONGEST_AXIS for size in shape):
    raise WeightsError(
      f"{source}: {name} has shape {shape}, where this model has {rank} "
      f"{'axis' if rank == 1 else 'axes'} of 1 to {LONGEST_AXIS:,}; foreign or damaged"
    )
  return shape


def depth_of(tensors: Mapping[str, Tensor], prefix: str, source: str) -> int:
  """How many blocks there are under names such as "blocks.0.norm1.weight"; 0 for none.

  prefix: "blocks.". WeightsError where their numbers have a gap.
  """
  found = (re.match(rf"{re.escape(prefix)}(\d{{1,9}})\.", name) for name in tensors)
  numbers = {int(match[1]) for match in found if match}
  if numbers and max(numbers) >= min(len(numbers), DEEPEST):
    absent = next(n for n in range(len(numbers) + 1) if n not in numbers)
    raise WeightsError(
      f"{source}: it holds {prefix}{max(numbers)} and {len(numbers)} blocks in all, without "
      f"{prefix}{absent}; foreign or damaged"
    )
  return len(numbers)


def without_prefix(tensors: Mapping[str, Tensor], prefix: str, source: str) -> dict[str, Tensor]:
  """Tensors with a prefix taken off their names; WeightsError where two names become one."""
  stripped: dict[str, Tensor] = {}
  for name, tensor in tensors.items():
    short = name.removeprefix(prefix)
    if short in stripped:
      raise WeightsError(
        f"{source}: holds both {short} and {prefix}{short}, and one alone can be converted; "
        "re-save it without the other"
      )
    stripped[short] = tensor
  return stripped


def largest(x: np.ndarray) -> np.floating:
  """The largest absolute value; NaN where there is one, infinity likewise, 0 of no values."""
  if not x.size:
    return np.float32(0)
  if x.dtype.itemsize == 2:
    x = x.astype(np.float32)
  with np.errstate(invalid="ignore"):
    # Two passes without a copy of that size.
    return np.maximum(np.abs(np.max(x)), np.abs(np.min(x)))


def holds(dtype: str, value: np.floating) -> bool:
  """Whether a value stays finite in a floating-point type. Rounding keeps the order of values."""
  import ml_dtypes

  kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
  with np.errstate(over="ignore", invalid="ignore"):
    return bool(np.isfinite(np.asarray(value).astype(kind).astype(np.float64)))


def limit_of(dtype: str) -> float:
  """The largest finite number of a floating-point type."""
  import ml_dtypes

  return float(ml_dtypes.finfo("bfloat16" if dtype == "bfloat16" else np.dtype(dtype)).max)
