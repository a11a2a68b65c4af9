"""Which patches the encoder sees: random and grouped masking as pure functions of a key.

Reference text, section 6. Patches are kept or hidden in groups of neighbours, so that a hidden
patch cannot be guessed from a visible one beside it. Example, 10 patches, ratio 0.6, groups of 2 (x
hidden):

    patch    0 1 2 3 4 5 6 7 8 9
    group    0 0 1 1 2 2 3 3 4 4
    hidden   x x . . x x x x . .      kept = [8 9 2 3]

Groups are in random order; the patches of a group stay side by side.

Defined here, where the released code fails: when the number of patches is no multiple of the group,
the last group is shorter. As there, the number of kept patches is fixed by the ratio, so the last
kept group may be cut.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dasheng_jax.errors import ConfigError


class Masking(NamedTuple):
  """A draw of the mask.

  kept: patch indices that the encoder sees, in shuffled order. restore: for every patch, its place
  in the sequence [kept patches, then hidden ones]. hidden: True where a patch is to be predicted,
  in patch order.
  """

  kept: Int[Array, "b k"]
  restore: Int[Array, "b t"]
  hidden: Bool[Array, "b t"]


def count_kept(patches: int, ratio: float) -> int:
  """Number of patches that stay visible: int(patches * (1 - ratio)), in double precision.

  250 at 0.75 gives 62, and 250 at 0.8 gives 49 (1 - 0.8 is a little under 0.2). Raises ConfigError
  when it would be 0.
  """
  kept = int(patches * (1 - ratio))
  if kept < 1:
    need = math.ceil(1 / (1 - ratio))
    raise ConfigError(
      f"{patches} patch(es) cannot be masked at ratio {ratio}: none would stay visible; "
      f"use crops of at least {need} patches (40 ms each) or a lower model.mask_ratio"
    )
  return kept


def noise_shape(batch: int, patches: int, group: int) -> tuple[int, int]:
  """Shape of the uniform noise that decides a mask: one number per group of patches."""
  return batch, -(-patches // group)


def mask_from_noise(
  noise: Float[Array, "b groups"], patches: int, ratio: float, group: int
) -> Masking:
  """The mask that uniform noise decides: groups with the smallest numbers stay, in that order."""
  kept = count_kept(patches, ratio)
  # Every patch carries its group's number; a stable sort then keeps the patches of a group together
  # and in order. It also leaves the patches of an incomplete last group in place without any
  # padding.
  per_patch = jnp.repeat(noise, group, axis=1)[:, :patches]
  order = jnp.argsort(per_patch, axis=1, stable=True)
  restore = jnp.argsort(order, axis=1)
  return Masking(order[:, :kept], restore, restore >= kept)


def random_mask(key: jax.Array, batch: int, patches: int, ratio: float, group: int = 1) -> Masking:
  """A random mask for each clip.

  The noise is float32: bfloat16 has so few values that ties would favour early patches.
  """
  noise = jax.random.uniform(key, noise_shape(batch, patches, group), jnp.float32)
  return mask_from_noise(noise, patches, ratio, group)


def gather_kept(tokens: Float[Array, "b t d"], kept: Int[Array, "b k"]) -> Float[Array, "b k d"]:
  """The visible tokens, in the order of `kept`."""
  return jnp.take_along_axis(tokens, kept[:, :, None], axis=1)


def restore_order(
  kept_tokens: Float[Array, "b k d"], mask_token: Float[Array, " d"], restore: Int[Array, "b t"]
) -> Float[Array, "b t d"]:
  """Put the visible tokens back in patch order, with the mask token in every hidden place."""
  batch, kept, width = kept_tokens.shape
  fill = jnp.broadcast_to(mask_token.astype(kept_tokens.dtype), (batch, 1, width))
  # One mask token at index `kept` serves every hidden place.
  sequence = jnp.concatenate([kept_tokens, fill], axis=1)
  return jnp.take_along_axis(sequence, jnp.minimum(restore, kept)[:, :, None], axis=1)
