"""X-ARES' k-NN protocol: the ten nearest embeddings vote, each by a softmax of its similarity.

    x = test row / its norm,   y = training column / its norm  (as released)
    votes of class c = sum over the k nearest with that class of softmax(x . y / temperature)

The package transposes the training embeddings before it normalises along the second axis, so every
feature gets unit length over the training part, and rows keep theirs: scaling "released". With
"cosine" rows have unit length on both sides, and the product is the cosine.

Source: the package's `KNN` and `KNNTrainer`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from experiments.evaluation.xares.config import Scaling
from experiments.evaluation.xares.head import Rounds, Rows
from experiments.evaluation.xares.scores import masked_accuracy
from pipelines.errors import DataError

NEIGHBOURS, TEMPERATURE = 10, 0.07
_LEAST_NORM = 1e-12  # PyTorch's own
_AT_ONCE = 256  # test rows whose similarities are held at the same time


def knn_scores(
  x: Float32[np.ndarray, "n d"],
  labels: Int32[np.ndarray, " n"],
  rounds: Rounds,
  classes: int,
  scaling: Scaling = "released",
) -> Float32[np.ndarray, " rounds"]:
  """Accuracy of the test part of each round. Raises DataError for too few training clips."""
  least = int(np.min(np.sum(rounds.train.real, axis=1)))
  if least < NEIGHBOURS:
    raise DataError(f"k-NN: {NEIGHBOURS} neighbours vote, and a training part has {least} clips")
  parts = jax.tree.map(jnp.asarray, (rounds.train, rounds.test))
  return np.asarray(_scores(jnp.asarray(x), jnp.asarray(labels), parts, classes, scaling))


@functools.partial(jax.jit, static_argnames=("classes", "scaling"))
def _scores(x, labels, parts, classes, scaling):
  def one(part: tuple[Rows, Rows]) -> jax.Array:
    train, test = part
    found = votes(x, labels, train, x[test.at], classes, scaling)
    return masked_accuracy(found, labels[test.at], test.real)

  return jax.lax.map(one, parts)


def votes(
  x: Float[Array, "n d"],
  labels: Int[Array, " n"],
  train: Rows,
  queries: Float[Array, "m d"],
  classes: int,
  scaling: Scaling,
) -> Float[Array, "m k"]:
  """What the neighbours among the training rows of a round say of each query."""
  known = jnp.where(train.real[:, None], x[train.at], 0.0)
  known = _unit(known, 0 if scaling == "released" else 1)
  named = labels[train.at]

  def of(query: Float[Array, " d"]) -> Float[Array, " k"]:
    alike = jnp.where(train.real, known @ query, -jnp.inf)
    nearest, place = jax.lax.top_k(alike, NEIGHBOURS)
    shares = jax.nn.softmax(nearest / TEMPERATURE)
    return jnp.zeros(classes).at[named[place]].add(shares)

  return jax.lax.map(of, _unit(queries, 1), batch_size=_AT_ONCE)


def _unit(x: jax.Array, axis: int) -> jax.Array:
  norm = jnp.linalg.norm(x, axis=axis, keepdims=True)
  return x / jnp.maximum(norm, _LEAST_NORM)
