"""The metrics of the clip-level tasks, on the device and on some rows of a table alone."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


def masked_accuracy(
  logits: Float[Array, "n k"], labels: Int[Array, " n"], real: Bool[Array, " n"]
) -> Float[Array, ""]:
  """Share of the real rows whose largest output is their class."""
  hits = (jnp.argmax(logits, axis=1) == labels) & real
  return jnp.sum(hits) / jnp.maximum(jnp.sum(real), 1)


def masked_precision(
  logits: Float[Array, "n k"], targets: Num[Array, "n k"], real: Bool[Array, " n"]
) -> Float[Array, ""]:
  """Mean over classes of the average precision over the real rows.

  The precision at every positive counts, rows of equal output all being above it, as
  scikit-learn's `average_precision_score` has it. A class without a positive row counts as 0, as in
  the package.
  """

  def one(scores: jax.Array, positive: jax.Array) -> jax.Array:
    scores = jnp.where(real, scores, -jnp.inf)
    positive = positive & real

    def at_least(those: jax.Array) -> jax.Array:
      """How many of those score as high as each row."""
      ordered = jnp.sort(jnp.where(those, scores, -jnp.inf))
      return len(scores) - jnp.searchsorted(ordered, scores, side="left")

    precision = at_least(positive) / jnp.maximum(at_least(real), 1)
    return jnp.sum(jnp.where(positive, precision, 0.0)) / jnp.maximum(jnp.sum(positive), 1)

  return jnp.mean(jax.vmap(one, in_axes=1)(logits, targets > 0.5))


METRICS = {"accuracy": masked_accuracy, "mAP": masked_precision}


def weighted_average(scores: Iterable[tuple[float, float]]) -> float:
  """Of (score, weight); NaN of none. Source: X-ARES, `weighted_average`."""
  pairs = list(scores)
  total = sum(weight for _, weight in pairs)
  return sum(score * weight for score, weight in pairs) / total if total else float("nan")
