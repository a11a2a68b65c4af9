"""Mixup of clips on the device, as jnp functions of a key: partners, shares, waves.

    key -> partner i32[b], share f32[b]
    x[b, ...] -> share x + (1 - share) x[partner]        (spectrograms, labels: `mix`)
    wave f32[b, s], labels f32[b, k] -> both mixed        (`mix_waves`, with means taken off)
    x[b, ...] -> x[b / 2, ...]                            (waves, labels: `mix_pairs`)

Source: reference text of MN and DyMN, section 10.1. One permutation gives all partners of a batch;
a row may be its own. Shares are Beta(a, a), the larger of the two parts, so a clip is always mostly
itself. Mixing by pairs, which halves a batch, is that of the weakly supervised taggers (their
reference text, section 3).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

WAVE_ALPHA = 2.0
WAVE_SHARE = 0.5  # of clips whose waves are mixed
PAIR_ALPHA = 1.0


def draw_mixing(
  key: Key[Array, ""], rows: int, alpha: float
) -> tuple[Float[Array, " b"], Int[Array, " b"]]:
  """(share, partner) of `rows` clips; alpha 0 leaves every clip alone."""
  if alpha < 0:
    raise ValueError(f"mixup alpha is {alpha}; it must be 0 (off) or more")
  for_share, for_partner = jax.random.split(key)
  partner = jax.random.permutation(for_partner, rows)
  if alpha == 0:
    return jnp.ones((rows,)), partner
  drawn = jax.random.beta(for_share, alpha, alpha, (rows,))
  return jnp.maximum(drawn, 1 - drawn), partner


def mix(
  x: Float[Array, "b ..."], share: Float[Array, " b"], partner: Int[Array, " b"]
) -> Float[Array, "b ..."]:
  """`share` of each row and the rest of its partner's."""
  share = share.reshape(-1, *(1,) * (x.ndim - 1))
  return share * x + (1 - share) * x[partner]


def draw_wave_mixing(
  key: Key[Array, ""], rows: int, mixed: float = WAVE_SHARE
) -> tuple[Float[Array, " b"], Int[Array, " b"]]:
  """(share, partner) for `mix_waves`: a clip stays alone with probability 1 - `mixed`."""
  if not 0 <= mixed <= 1:
    raise ValueError(f"the share of mixed waves is {mixed}; it must be from 0 to 1")
  for_use, for_mixing = jax.random.split(key)
  share, partner = draw_mixing(for_mixing, rows, WAVE_ALPHA)
  used = jax.random.uniform(for_use, (rows,)) < mixed
  return jnp.where(used, share, 1.0), partner


def mix_waves(
  wave: Float[Array, "b s"], share: Float[Array, " b"], partner: Int[Array, " b"]
) -> Float[Array, "b s"]:
  """Waves without their means, mixed, without the mean again; those with share 1 stay as they are.

  Labels are mixed by `mix` with the same share and partner.
  """
  centred = wave - jnp.mean(wave, axis=1, keepdims=True)
  both = mix(centred, share, partner)
  both = both - jnp.mean(both, axis=1, keepdims=True)
  return jnp.where(share[:, None] < 1, both, wave)


def draw_pair_mixing(
  key: Key[Array, ""], rows: int, alpha: float = PAIR_ALPHA
) -> Float[Array, " pairs"]:
  """Shares Beta(alpha, alpha) of the first of each two of `rows` clips, for `mix_pairs`."""
  if not alpha > 0:
    raise ValueError(f"mixup alpha is {alpha}; mixing by pairs needs more than 0")
  return jax.random.beta(key, alpha, alpha, (rows // 2,))


def mix_pairs(x: Float[Array, "b ..."], share: Float[Array, " pairs"]) -> Float[Array, "rows ..."]:
  """Clips 0 and 1, 2 and 3 and so on made one, with `share` of the first: half as many.

  An odd number of clips stays as it is. Labels are mixed with the same shares.
  """
  if x.shape[0] % 2:
    return x
  share = share.reshape(-1, *(1,) * (x.ndim - 1))
  return share * x[::2] + (1 - share) * x[1::2]
