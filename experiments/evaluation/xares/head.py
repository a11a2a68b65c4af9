"""X-ARES' linear protocol as one program: LayerNorm and a linear layer on averaged embeddings.

    x[n, d] -> LayerNorm -> linear -> cross entropy, or binary cross entropy of tags

Adam at the recipe's rate, which a half cosine takes to a tenth from epoch to epoch; the weights of
the epoch that does best on the validation part are scored on the test part. With folds the
validation part is the test part, so such a score is the best of all epochs: as released. `last` is
the score of the last epoch's weights, which chose nothing. Source: the package's `Trainer`, `Mlp`
and `run_mlp`.

Other than there, every epoch goes through a fresh permutation; the package shuffles in buffers.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Float32, Int, Key, Num

from experiments.evaluation.xares.scores import METRICS
from experiments.evaluation.xares.table import Recipe

Params = dict[str, jax.Array]
_EPS = 1e-5  # PyTorch's own of a LayerNorm
_DECAY = 0.1  # what is left of the rate at the end of the cosine


class Rows(NamedTuple):
  """Rows of a table for each of several rounds; short rounds are filled up with what is not real.

  at: i32[rounds, m], row numbers. real: bool[rounds, m].
  """

  at: Any
  real: Any

  @classmethod
  def of(cls, rounds: list[np.ndarray]) -> Rows:
    """From the row numbers of each round."""
    most = max(len(rows) for rows in rounds)
    at = np.stack([np.pad(rows, (0, most - len(rows))) for rows in rounds]).astype(np.int32)
    return cls(at, np.stack([np.arange(most) < len(rows) for rows in rounds]))


class Rounds(NamedTuple):
  """The three parts of every round: one, or one for each fold."""

  train: Rows
  valid: Rows
  test: Rows


class Found(NamedTuple):
  """Scores f32[rounds, seeds] of the best epoch's weights and of the last one's.

  best_epoch: i32[rounds, seeds], from 1.
  """

  best: Any
  last: Any
  best_epoch: Any


def train_heads(
  x: Float32[np.ndarray, "n d"],
  targets: Num[np.ndarray, "n ..."],
  rounds: Rounds,
  recipe: Recipe,
  classes: int,
  seeds: int = 1,
) -> Found:
  """Trains and scores a head for each round and seed, all of them side by side."""
  keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
  parts = jax.tree.map(jnp.asarray, rounds)
  made = _train_all(jnp.asarray(x), jnp.asarray(targets), parts, keys, recipe, classes)
  return Found(*(np.asarray(part) for part in made))


@functools.partial(jax.jit, static_argnames=("recipe", "classes"))
def _train_all(x, targets, rounds, keys, recipe, classes):
  one = functools.partial(score_head, x, targets, recipe=recipe, classes=classes)
  of_seeds = jax.vmap(one, in_axes=(None, 0))
  return jax.vmap(of_seeds, in_axes=(0, None))(rounds, keys)


def score_head(
  x: Float[Array, "n d"],
  targets: Num[Array, "n ..."],
  parts: Rounds,
  key: Key[Array, ""],
  *,
  recipe: Recipe,
  classes: int,
) -> Found:
  """The scores of one round."""
  best, last, number = fit_head(x, targets, parts, key, recipe=recipe, classes=classes)
  of_best, of_last = (_score(x, targets, parts.test, params, recipe) for params in (best, last))
  return Found(of_best, of_last, number)


def fit_head(
  x: Float[Array, "n d"],
  targets: Num[Array, "n ..."],
  parts: Rounds,
  key: Key[Array, ""],
  *,
  recipe: Recipe,
  classes: int,
) -> tuple[Params, Params, Int[Array, ""]]:
  """(weights of the best epoch, of the last, number of the best from 1) of one round.

  The earliest of equally good epochs is the best.
  """
  start, order_key = jax.random.split(key)
  params = initial(start, x.shape[1], classes)
  adam = optax.scale_by_adam()

  def step(carry, batch):
    params, state, rate = carry
    at, real = batch
    slope = jax.grad(loss)(params, x[at], targets[at], real)
    update, moved = adam.update(slope, state)
    stepped = jax.tree.map(lambda p, u: p - rate * u, params, update)
    some = jnp.any(real)  # a round that is shorter than others has no such batch
    params, state = jax.tree.map(
      lambda new, old: jnp.where(some, new, old), (stepped, moved), (params, state)
    )
    return (params, state, rate), None

  def epoch(carry, number):
    params, state, best = carry
    batches = shuffled(jax.random.fold_in(order_key, number), parts.train, recipe.batch_size)
    rate = rate_of_epoch(recipe, number)
    (params, state, _), _ = jax.lax.scan(step, (params, state, rate), batches)
    found = _score(x, targets, parts.valid, params, recipe)
    new = (found, params, number + 1)
    best = jax.tree.map(lambda a, b: jnp.where(found > best[0], a, b), new, best)
    return (params, state, best), None

  nothing = (jnp.float32(-jnp.inf), params, jnp.int32(0))
  numbers = jnp.arange(recipe.epochs)
  (params, _, best), _ = jax.lax.scan(epoch, (params, adam.init(params), nothing), numbers)
  return best[1], params, best[2]


def _score(
  x: jax.Array, targets: jax.Array, rows: Rows, params: Params, recipe: Recipe
) -> jax.Array:
  metric = METRICS[recipe.metric]
  return metric(logits(params, x[rows.at]), targets[rows.at], rows.real)


def initial(key: Key[Array, ""], width: int, classes: int) -> Params:
  """Weights as PyTorch draws them: uniform within 1 / sqrt(width)."""
  for_kernel, for_bias = jax.random.split(key)
  most = 1 / math.sqrt(width)
  return {
    "scale": jnp.ones(width),
    "shift": jnp.zeros(width),
    "kernel": jax.random.uniform(for_kernel, (width, classes), minval=-most, maxval=most),
    "bias": jax.random.uniform(for_bias, (classes,), minval=-most, maxval=most),
  }


def logits(params: Params, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
  """LayerNorm, then the linear layer."""
  mean = jnp.mean(x, axis=1, keepdims=True)
  variance = jnp.mean(jnp.square(x - mean), axis=1, keepdims=True)
  normed = (x - mean) / jnp.sqrt(variance + _EPS)
  normed = normed * params["scale"][None] + params["shift"][None]
  return normed @ params["kernel"] + params["bias"][None]


def loss(
  params: Params,
  x: Float[Array, "n d"],
  targets: Num[Array, "n ..."],
  real: Bool[Array, " n"],
) -> Float[Array, ""]:
  """Mean over the real rows; of tags also over classes."""
  found = logits(params, x)
  if targets.ndim == 1:
    losses = optax.softmax_cross_entropy_with_integer_labels(found, targets)
  else:
    losses = jnp.mean(optax.sigmoid_binary_cross_entropy(found, targets), axis=1)
  return jnp.sum(jnp.where(real, losses, 0.0)) / jnp.maximum(jnp.sum(real), 1)


def shuffled(key: Key[Array, ""], rows: Rows, batch_size: int) -> Rows:
  """[steps, batch_size] of the rows in a fresh order, the real ones first."""
  count = rows.at.shape[0]
  noise = jnp.where(rows.real, jax.random.uniform(key, (count,)), jnp.inf)
  order = jnp.argsort(noise)
  more = -count % batch_size
  at, real = (jnp.pad(part[order], (0, more)) for part in rows)
  return Rows(at.reshape(-1, batch_size), real.reshape(-1, batch_size))


def rate_of_epoch(recipe: Recipe, number: Int[Array, ""] | int) -> Float[Array, ""]:
  """The learning rate of an epoch, counted from 0; constant where there is one epoch alone."""
  if recipe.epochs < 2:
    return jnp.float32(recipe.learning_rate)
  low = _DECAY * recipe.learning_rate
  turn = jnp.cos(math.pi * jnp.asarray(number) / recipe.epochs)
  return low + (recipe.learning_rate - low) * (1 + turn) / 2
