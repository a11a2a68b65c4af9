"""A checksum of sharded arrays that no layout changes: saved on 8 devices, verified on 1."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


@jax.jit
def checksums(arrays: Mapping[str, Any]) -> dict[str, jax.Array]:
  """u32[] for every array: the sum, modulo 2^32, of its bit patterns times odd weights by position.

  Integer addition commutes, so shards may be summed in any order, and each device reads its own
  once. Any change of one element changes the sum, and the weights make swapped elements show.
  """
  return {path: _checksum(x) for path, x in arrays.items()}


def checksum(x: np.ndarray) -> int:
  """The same of one array on the host, a piece of its first axis at a time."""
  rows = max(1, _PIECE_BYTES // max(1, x[:1].nbytes)) if x.ndim else 1
  if x.ndim == 0 or len(x) <= rows:
    return int(_piece(x, 0))
  return sum(int(_piece(x[at : at + rows], at)) for at in range(0, len(x), rows)) % (1 << 32)


_PIECE_BYTES = 1 << 26


@jax.jit
def _piece(x: Any, start: Any) -> jax.Array:
  return _checksum(x, start)


def _checksum(x: Any, start: Any = 0) -> jax.Array:
  """start: index of the first row, where x is a piece of a larger array."""
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize]).astype(jnp.uint32)
  weight = jnp.zeros(bits.shape, jnp.uint32)
  for axis in range(bits.ndim):
    index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    if axis == 0:
      index = index + jnp.asarray(start, jnp.uint32)
    weight = (weight + index) * jnp.uint32(2654435761)  # Knuth's multiplier: mixes the axes
    weight = weight ^ (weight >> 15)
  return jnp.sum(bits * (2 * weight + 1), dtype=jnp.uint32)
