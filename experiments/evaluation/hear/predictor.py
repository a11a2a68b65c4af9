"""Trains all candidates of a task in one compiled program, each stopped by itself.

A candidate trains with Adam, is looked at on the validation part every few epochs, keeps what it
was at its best look, and ends when patience does. Batches are the rows in their order, the same in
every epoch, and the last batch is what is left: the public package asks for shuffling of a part
named "train" but passes lists of parts, so that it never shuffles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float32, Key

from experiments.evaluation.hear import network
from experiments.evaluation.hear.grid import Grid, Point
from experiments.evaluation.hear.program_scores import loss

# (logits, targets) of the validation part -> (a score of which more is better, a choice made there)
Look = Callable[[Array, Array], tuple[Array, Array]]


class Data(NamedTuple):
  """Embeddings and targets (0 or 1) of what teaches and of what chooses."""

  train_x: Float32[Array, "n d"]
  train_y: Float32[Array, "n k"]
  valid_x: Float32[Array, "m d"]
  valid_y: Float32[Array, "m k"]


class Best(NamedTuple):
  """What a candidate was at its best look.

  Attributes:
    params, stats: of `network`.
    score: of that look, more is better; NaN where the validation part cannot be scored.
    choice: made there, such as of a postprocessing.
    look: its number, from 0.
    looks: that were taken in all.
  """

  params: Any
  stats: Any
  score: Float32[Array, ""]
  choice: Array
  look: Array
  looks: Array


class _State(NamedTuple):
  params: Any
  stats: Any
  adam: Any
  step: Array
  best: Best
  waited: Array
  ended: Array


def fit(
  points: Sequence[Point],
  grid: Grid,
  data: Data,
  look: Look,
  tags: bool,
  keys: Sequence[Key[Array, ""]],
  side_by_side: int = 0,
) -> list[Best]:
  """Trains a candidate for each point and key, in one program.

  look: a function that is kept, so that another fold of the same sizes needs no other program.
  side_by_side: candidates of one depth that go through a step together; 0: all of them.
  """
  depths = tuple(sorted({point.hidden_layers for point in points}))
  members = [[i for i, p in enumerate(points) if p.hidden_layers == depth] for depth in depths]
  groups = tuple(
    (
      jnp.array([points[i].learning_rate for i in chosen], jnp.float32),
      jnp.array([points[i].initial == "uniform" for i in chosen]),
      jnp.stack([keys[i] for i in chosen]),
    )
    for chosen in members
  )
  made = _fit(
    groups, data, depths=depths, grid=grid, look=look, tags=tags, side_by_side=side_by_side
  )
  found: dict[int, Best] = {}
  for chosen, best in zip(members, made, strict=True):
    found |= {i: jax.tree.map(lambda x, at=at: x[at], best) for at, i in enumerate(chosen)}
  return [found[i] for i in range(len(points))]


def predict(best: Best, x: Float32[np.ndarray, "n d"], batch_size: int) -> Float32[Array, "n k"]:
  """Logits of embeddings."""
  return _predict(best.params, best.stats, jnp.asarray(x), batch_size)


@functools.partial(jax.jit, static_argnames=("depths", "grid", "look", "tags", "side_by_side"))
def _fit(
  groups: Any,
  data: Data,
  *,
  depths: tuple[int, ...],
  grid: Grid,
  look: Look,
  tags: bool,
  side_by_side: int,
) -> tuple[Best, ...]:
  made = []
  for depth, group in zip(depths, groups, strict=True):

    def one(candidate: Any, depth: int = depth) -> Best:
      return _candidate(depth, grid, look, tags, data, *candidate)

    size = side_by_side or len(group[0])
    if size == 1:  # no batching, hence no selection of what goes on: whole loops one by one
      made.append(jax.lax.map(one, group))
    else:
      made.append(jax.lax.map(one, group, batch_size=min(size, len(group[0]))))
  return tuple(made)


def _candidate(
  depth: int,
  grid: Grid,
  look: Look,
  tags: bool,
  data: Data,
  rate: Array,
  uniform: Array,
  key: Key[Array, ""],
) -> Best:
  sizes = (data.train_x.shape[1], *[grid.hidden] * depth, data.train_y.shape[1])
  params, stats = network.initial(jax.random.fold_in(key, 0), sizes, uniform)
  dropout_key = jax.random.fold_in(key, 1)
  adam = optax.scale_by_adam()  # PyTorch's constants are these

  def step(state: _State, batch: tuple[Array, Array]) -> tuple[_State, None]:
    x, y = batch

    def objective(params: Any) -> tuple[Array, Any]:
      at = jax.random.fold_in(dropout_key, state.step)
      logits, moved = network.train(params, state.stats, x, at, grid.dropout)
      return loss(logits, y, tags), moved

    gradient, moved = jax.grad(objective, has_aux=True)(state.params)
    update, adam_state = adam.update(gradient, state.adam)
    new = jax.tree.map(lambda p, u: p - rate * u, state.params, update)
    return state._replace(params=new, stats=moved, adam=adam_state, step=state.step + 1), None

  batches, rest = _batched(data, grid.batch_size)

  def epoch(state: _State, _: None) -> tuple[_State, None]:
    if len(batches[0]):
      state, _ = jax.lax.scan(step, state, batches)
    # One row has no variance, and the original stops there.
    return (step(state, rest)[0] if len(rest[0]) > 1 else state), None

  def look_again(state: _State) -> _State:
    state, _ = jax.lax.scan(epoch, state, length=grid.check_every)
    logits = _predict(state.params, state.stats, data.valid_x, grid.batch_size)
    score, choice = look(logits, data.valid_y)
    at = state.best.looks
    better = (at == 0) | (score > state.best.score)
    new = Best(state.params, state.stats, score.astype(jnp.float32), choice, at, at)
    best = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, state.best)
    waited = jnp.where(better, 0, state.waited + 1)
    ended = (waited >= grid.patience) | jnp.isnan(score) | (at + 1 >= grid.looks)
    return state._replace(best=best._replace(looks=at + 1), waited=waited, ended=ended)

  zero = jnp.int32(0)
  nothing = Best(params, stats, jnp.float32(-jnp.inf), zero, zero, zero)
  begin = _State(params, stats, adam.init(params), zero, nothing, zero, jnp.array(False))
  return jax.lax.while_loop(lambda state: ~state.ended, look_again, begin).best


def _batched(data: Data, size: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
  """(full batches along a first axis, the rest) of what teaches."""
  whole = len(data.train_x) // size
  cut = whole * size
  parts = (data.train_x, data.train_y)
  full = tuple(x[:cut].reshape(whole, size, x.shape[1]) for x in parts)
  return (full[0], full[1]), (parts[0][cut:], parts[1][cut:])


@functools.partial(jax.jit, static_argnames="batch_size")
def _predict(params: Any, stats: Any, x: Array, batch_size: int) -> Array:
  if len(x) <= batch_size:
    return network.infer(params, stats, x)
  return jax.lax.map(
    lambda row: network.infer(params, stats, row[None])[0], x, batch_size=batch_size
  )
