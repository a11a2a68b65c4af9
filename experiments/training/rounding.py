"""Parameters in bfloat16: kept so with stochastic rounding, or read so beside float32 masters.

bfloat16 has eight bits of mantissa: an update below 1/512 of a value vanishes when the sum is
rounded to nearest, and most updates of a training run are smaller. Rounded up with a probability of
the fraction that would be lost, the sum is right on average, and small updates add up.
"""

from __future__ import annotations

import re
import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float

from experiments.training.paths import map_by_path
from experiments.training.task import Tree

# How parameters are stored, and what the model reads.
PARAMS: dict[str, str] = {
  "float32": "stored and read in float32; layers cast what they multiply",
  "bfloat16": "kernels stored and read in bfloat16, each update rounded stochastically",
  "bfloat16_master": "stored in float32; kernels read in bfloat16, cast once before the model",
}

# Kernels are what a model multiplies in its compute type anyway. Norms, biases, positions and
# tokens are used in float32, and are few.
NARROW = re.compile(r"(^|/|_)(kernel|embedding)$")


def widen(tree: Tree) -> Tree:
  """Every bfloat16 array as float32; others as they are, a tree without any included."""
  if all(x.dtype != jnp.bfloat16 for x in jax.tree.leaves(tree)):
    return tree
  return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree)


def narrow(params: Tree) -> Tree:
  """Kernels in bfloat16, to nearest; everything else as it is."""
  return map_by_path(lambda path, x: x.astype(jnp.bfloat16) if NARROW.search(path) else x, params)


def round_like(params: Tree, old: Tree, key: jax.Array) -> Tree:
  """`params` f32 in the dtypes of `old`, rounded stochastically.

  Each array draws from the key folded with its path, and each value by its place in the whole
  array: the result does not depend on how the array is split over devices.
  """

  def one(path: str, new: jax.Array, like: jax.Array) -> jax.Array:
    if like.dtype != jnp.bfloat16:
      return new.astype(like.dtype)
    return stochastic_bfloat16(new, jax.random.fold_in(key, zlib.crc32(path.encode())))

  return map_by_path(one, params, old)


def stochastic_bfloat16(x: Float[Array, "*shape"], key: jax.Array) -> BFloat16[Array, "*shape"]:
  """One of the two neighbours in bfloat16, the nearer one more often: right on average.

  A value that bfloat16 holds stays; an infinity or NaN stays one.
  """
  # bfloat16 is the upper half of float32: uniform noise over the lower half carries into the upper
  # one with just the probability of what the lower half holds.
  noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
  rounded = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
  return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))
