"""Eight bits per value: the dynamic map of Dettmers et al. over boxes that share one scale.

    x f32[n, m]  ->  codes u8[n, m]  and  absmax f32[n / box[0], m / box[1]]

The map (arXiv 2110.02861, section 1.3; `create_dynamic_map` of bitsandbytes) holds 0, 1 and the
middles of the cells of seven decades. Decade i (0 to 6) spans 10^(i-7) to 10^(i-6) and has 2^i
equal cells with a sign (for both signs each), 2^(i+1) without. Within a decade, the number of a
cell is linear in the value, and counted so that a decade begins with the number of its cells, the
next one begins just behind its last. Both ways are therefore one multiplication and addition, with
constants that depend on the decade: no table, no search. They fuse with the update on any device;
a lookup per value would be slow where there is no fast gather.

The codes are those of bitsandbytes: the place of the value in the ascending map.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

DECADES = 7
ZERO = 127  # code of 0 in the map with a sign; magnitudes are counted from it
BLOCK = 256  # values per scale at most, as in today's bitsandbytes; the paper had 2,048
ENOUGH = 32  # values per scale, past which a box grows along no further axis
SHORT = 16  # values; a shorter axis (query, key, value) is never put into one box
_TINY = 2.0**-126  # smallest normal float32
KEPT = 3  # powers of two of an axis that a box leaves for meshes: 8 devices


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quantised:
  """An array in eight bits.

  Attributes:
    codes: u8, in the shape of the array.
    absmax: f32, the largest magnitude of every box: one axis per axis of the array.
    box: values per scale along each axis; the last box along an axis may be cut short.
    signed: whether the map is that of values of both signs.
  """

  codes: Any
  absmax: Any
  box: tuple[int, ...] = field(metadata={"static": True})
  signed: bool = field(metadata={"static": True})


def dynamic_map(signed: bool) -> np.ndarray:
  """The 256 values f32, ascending; of one sign alone, 0 to 1, with `signed` False."""
  values = [0.0, 1.0]
  for decade in range(DECADES):
    cells = _cells(decade, signed)
    middles = 0.1 + 0.9 * (np.arange(cells) + 0.5) / cells
    scaled = 10.0 ** (decade - DECADES + 1) * middles
    values.extend(scaled)
    if signed:
      values.extend(-scaled)
  return np.sort(np.asarray(values)).astype(np.float32)


def _cells(decade: int, signed: bool) -> int:
  return 2**decade if signed else 2 ** (decade + 1)


def quantise(
  x: Float[Array, "*shape"], box: Sequence[int], signed: bool
) -> tuple[UInt8[Array, "*shape"], Float[Array, "*boxes"]]:
  """(codes, absmax) of an array: per box, the nearest value of the map after division by absmax.

  A box of zeros has absmax 0. Without `signed` the values must not be negative.
  """
  absmax = _absmax(x, box)
  # The smallest normal numbers have no finite reciprocal; what is below them counts as 0.
  inverse = jnp.where(absmax > _TINY, 1.0 / jnp.maximum(absmax, _TINY), 0.0)
  return to_codes(x * _spread(inverse, x.shape, box), signed), absmax


def dequantise(q: Quantised) -> Float[Array, "*shape"]:
  """The array f32 that the codes stand for."""
  return from_codes(q.codes, q.signed) * _spread(q.absmax, q.codes.shape, q.box)


def to_codes(y: Float[Array, "*shape"], signed: bool) -> UInt8[Array, "*shape"]:
  """Place in the map of the value nearest to y in [-1, 1] (in [0, 1] without `signed`).

  Exact but for y within float32 rounding of the middle between two values.
  """
  size = jnp.abs(y)
  decades = _decades(signed)
  first, slope, offset = (_by_decade(size, decades, f) for f in ("first", "slope", "offset"))
  # The first and last cell reach past the decade, to the middle between their value and that of
  # the neighbouring decade.
  number = jnp.clip(jnp.floor(size * slope + offset), first, 2 * first - 1)
  number = jnp.where(size > decades[0].border, number, decades[0].first - 1)
  number = jnp.where(size >= decades[-1].end, 2 * decades[-1].first, number)
  if not signed:
    return (number - 1).astype(jnp.uint8)
  # 1 has no negative counterpart.
  number = jnp.where(y < 0, -jnp.minimum(number, ZERO), number)
  return (number + ZERO).astype(jnp.uint8)


def from_codes(codes: UInt8[Array, "*shape"], signed: bool) -> Float[Array, "*shape"]:
  """The map's value f32 of every code, to within two roundings."""
  place = codes.astype(jnp.float32)
  number = jnp.abs(place - ZERO) if signed else place + 1
  decades = _decades(signed)
  by_number = [dataclasses.replace(d, border=d.first) for d in decades]
  first, cell, least = (_by_decade(number, by_number, f) for f in ("first", "cell", "least"))
  size = (number - first) * cell + least
  size = jnp.where(number < decades[0].first, 0.0, size)
  size = jnp.where(number >= 2 * decades[-1].first, 1.0, size)
  return jnp.where(place < ZERO, -size, size) if signed else size


@dataclass(frozen=True)
class _Decade:
  """Constants of a decade: the cell numbers, and values as lines over them, in both directions.

  Attributes:
    first: number of the first cell, and how many there are.
    cell, least: width of a cell and its first value: value = (number - first) cell + least.
    slope, offset: number = floor(value slope + offset).
    border, end: middles towards the values before and after the decade.
  """

  first: float
  cell: float
  least: float
  slope: float
  offset: float
  border: float
  end: float


@functools.cache
def _decades(signed: bool) -> tuple[_Decade, ...]:
  counts = [float(_cells(i, signed)) for i in range(DECADES)]
  tops = [10.0 ** (i - DECADES + 1) for i in range(DECADES)]
  least = [top * (0.1 + 0.45 / n) for top, n in zip(tops, counts, strict=True)]
  last = [top * (1 - 0.45 / n) for top, n in zip(tops, counts, strict=True)]
  borders = [(a + b) / 2 for a, b in zip([0.0, *last], [*least, 1.0], strict=True)]
  return tuple(
    _Decade(n, 0.9 * top / n, low, n / (0.9 * top), n * (1 - 1 / 9), border, end)
    for n, top, low, border, end in zip(counts, tops, least, borders[:-1], borders[1:], strict=True)
  )


def _by_decade(x: jax.Array, decades: Sequence[_Decade], name: str) -> jax.Array:
  """A constant of the decade that every x lies in; of the first one below it."""
  chosen = jnp.full(x.shape, getattr(decades[0], name), jnp.float32)
  for decade in decades[1:]:
    chosen = jnp.where(x >= decade.border, getattr(decade, name), chosen)
  return chosen


# --- boxes ---


def choose_box(shape: Sequence[int], split: Sequence[bool]) -> tuple[int, ...]:
  """Values per scale along each axis: at most 256 in all, and shards hold whole boxes.

  A box that crossed the border of two devices would need both to agree on its scale. So a box
  grows first along axes that no mesh splits, from the last one; then, by powers of two and the
  longest first, along the others, where it leaves eight boxes to be split. It stops at 32 values.
  All this depends on the array alone and not on the mesh, so a state saved on one mesh is the same
  state on another. An array whose split axes have too few factors of two gets boxes as if it were
  not split; the compiler then moves its scales between devices.

  Args:
    shape: of the array.
    split: per axis, whether a mesh may split it.
  """
  box = [1] * len(shape)
  whole = [i for i in reversed(range(len(shape))) if not split[i] and shape[i] >= SHORT]
  others = sorted((i for i in range(len(shape)) if split[i]), key=lambda i: (-shape[i], -i))
  for axis in (*whole, *others):
    size = math.prod(box)
    if size >= ENOUGH:
      break
    if not split[axis]:
      box[axis] = min(shape[axis], BLOCK // size)
    else:
      while box[axis] * size < BLOCK and shape[axis] % (box[axis] * 2 << KEPT) == 0:
        box[axis] *= 2
  if math.prod(box) < SHORT and any(split):
    return choose_box(shape, [False] * len(shape))
  return tuple(box)


def boxes(shape: Sequence[int], box: Sequence[int]) -> tuple[int, ...]:
  """Shape of the scales."""
  return tuple(-(-n // b) for n, b in zip(shape, box, strict=True))


def _absmax(x: jax.Array, box: Sequence[int]) -> jax.Array:
  # Axis by axis, and only those that a box spans: ten-dimensional arrays compile for minutes.
  largest = jnp.abs(x)
  for axis, (n, b) in enumerate(zip(x.shape, box, strict=True)):
    if 1 < b < n:
      whole = [(0, -n % b) if i == axis else (0, 0) for i in range(x.ndim)]
      padded = jnp.pad(largest, whole) if n % b else largest
      shape = padded.shape
      split = padded.reshape(*shape[:axis], shape[axis] // b, b, *shape[axis + 1 :])
      largest = jnp.max(split, axis=axis + 1)
    elif b > 1:
      largest = jnp.max(largest, axis=axis, keepdims=True)
  return largest


def _spread(absmax: jax.Array, shape: Sequence[int], box: Sequence[int]) -> jax.Array:
  """Every scale at all values of its box, as far as broadcasting does not do it: see `_absmax`."""
  for axis, (n, b) in enumerate(zip(shape, box, strict=True)):
    if 1 < b < n:
      repeated = jnp.repeat(absmax, b, axis=axis)
      absmax = jax.lax.slice_in_dim(repeated, 0, n, axis=axis)
  return jnp.broadcast_to(absmax, tuple(shape))
