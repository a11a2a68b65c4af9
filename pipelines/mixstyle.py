"""MixStyle over frequency bands: a clip takes on part of the means and deviations of another.

Source: reference text of MN and DyMN, section 10.3 (DCASE20); Zhou et al., arXiv 2104.02008.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

ALPHA = 0.4
EPSILON = 1e-6


def draw_mixstyle(
  key: Key[Array, ""], rows: int, probability: float, alpha: float = ALPHA
) -> tuple[Bool[Array, ""], Float[Array, " b"], Int[Array, " b"]]:
  """(whether this batch is mixed at all, share of the own statistics, partner)."""
  if not 0 <= probability <= 1:
    raise ValueError(f"mixstyle_p is {probability}; it must be from 0 (off) to 1")
  for_use, for_share, for_partner = jax.random.split(key, 3)
  return (
    jax.random.uniform(for_use) < probability,
    jax.random.beta(for_share, alpha, alpha, (rows,)),
    jax.random.permutation(for_partner, rows),
  )


def mixstyle(
  x: Float[Array, "b f frames"], share: Float[Array, " b"], partner: Int[Array, " b"]
) -> Float[Array, "b f frames"]:
  """Each band of a clip with mean and deviation of `share` itself and the rest of its partner.

  The deviation has an unbiased variance. No gradient goes through the statistics.
  """
  mean = jax.lax.stop_gradient(jnp.mean(x, axis=2, keepdims=True))
  variance = jax.lax.stop_gradient(jnp.var(x, axis=2, keepdims=True, ddof=1))
  deviation = jnp.sqrt(variance + EPSILON)
  share = share[:, None, None]
  new_mean = share * mean + (1 - share) * mean[partner]
  new_deviation = share * deviation + (1 - share) * deviation[partner]
  return (x - mean) / deviation * new_deviation + new_mean
