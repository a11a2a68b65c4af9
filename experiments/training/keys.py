"""Random keys: one seed, named streams, folded with the step.

So a restarted run draws what an unbroken run draws.
"""

import zlib

import jax


def stream_key(seed: int | jax.Array, name: str, index: int | jax.Array | None = None) -> jax.Array:
  """Typed key of a stream (`init`, `mask`, `eval`), folded with a step or batch index if given.

  The name enters through its CRC-32: unlike `hash`, the same on every host and Python version.
  """
  key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
  return key if index is None else jax.random.fold_in(key, index)
