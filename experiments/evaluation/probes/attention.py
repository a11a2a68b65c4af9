"""Attention pooling over frame embeddings: one learned query, then a linear layer.

Each frame gets a weight by its product with the query, as a softmax over the valid frames; the
weighted mean is classified. The query starts at zero, where all frames weigh alike: training begins
at the mean that a linear probe sees (attentive probing as in Chen et al. 2024, "Context
Autoencoder for Self-Supervised Representation Learning", section 4, with one query and no
projections).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from experiments.evaluation.probes.fit import Probe


@functools.cache
def attention(dropout: float) -> Probe:
  """The probe; dropout acts on the pooled vector."""
  return Probe(_init, functools.partial(_apply, dropout))


def pool(
  query: Float[Array, " d"], frames: Float[Array, "b t d"], valid: Bool[Array, "b t"]
) -> Float[Array, "b d"]:
  """Mean of the valid frames, weighted by the softmax of their products with the query."""
  score = jnp.einsum("btd,d->bt", frames, query) * frames.shape[-1] ** -0.5
  weight = jax.nn.softmax(jnp.where(valid, score, -jnp.inf), axis=1)
  return jnp.einsum("bt,btd->bd", weight, frames)


def _init(key: jax.Array, width: int, classes: int) -> dict[str, jax.Array]:
  return {
    "query": jnp.zeros(width),
    "out": jax.random.normal(key, (width, classes)) * 0.1 * width**-0.5,
    "out_bias": jnp.zeros(classes),
  }


def _apply(
  dropout: float,
  params: dict[str, Any],
  x: Float[Array, "b t d"],
  valid: Bool[Array, "b t"],
  key: jax.Array | None,
) -> Float[Array, "b c"]:
  pooled = pool(params["query"], x, valid)
  if key is not None and dropout > 0:
    kept = jax.random.bernoulli(key, 1 - dropout, pooled.shape)
    pooled = jnp.where(kept, pooled / (1 - dropout), 0.0)
  return pooled @ params["out"] + params["out_bias"][None]
