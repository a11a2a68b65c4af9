"""k nearest neighbours: a product of matrices, the k largest of each row, and a vote."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Metric = Literal["cosine", "euclidean"]
METRICS = ("cosine", "euclidean")
ROWS_AT_ONCE = 256  # test clips whose distances to all clips are held in memory


@functools.partial(jax.jit, static_argnames=("k", "metric"))
def neighbour_votes(
  values: Float[Array, "n d"],
  shift: Float[Array, "folds d"],
  scale: Float[Array, "folds d"],
  train: Bool[Array, "folds n"],
  test_rows: Int[Array, "folds m"],
  targets: Float[Array, "n c"],
  *,
  k: int,
  metric: Metric,
) -> Float[Array, "folds m c"]:
  """How many of the k nearest training clips of each test clip have each class.

  Features are standardised fold by fold as `experiments.evaluation.folds.Inputs` says. Votes count
  equally; of clips at the same distance the earlier ones are nearer.
  """

  def fold(part: tuple[jax.Array, ...]) -> jax.Array:
    shift, scale, train, rows = part
    x = (values - shift[None]) * scale[None]
    if metric == "cosine":
      length = jnp.linalg.norm(x, axis=1, keepdims=True)
      x = x / jnp.where(length > 0, length, 1.0)
    # |q - x|^2 without |q|^2, which is the same for all neighbours of q.
    handicap = jnp.square(x).sum(axis=1) / 2 if metric == "euclidean" else jnp.zeros(len(x))

    def votes(row: jax.Array) -> jax.Array:
      near = jnp.dot(x, x[row], precision=jax.lax.Precision.HIGHEST) - handicap
      _, found = jax.lax.top_k(jnp.where(train, near, -jnp.inf), k)
      return targets[found].sum(axis=0)

    return jax.lax.map(votes, rows, batch_size=ROWS_AT_ONCE)

  return jax.lax.map(fold, (shift, scale, train, test_rows))
