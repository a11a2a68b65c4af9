"""Random starts of parameters, those of a whole network out of a few draws.

XLA compiles every call of a random generator anew, and a DyMN makes two hundred of them: a minute
on the CPU before the first number. Inside `few_draws` the initialisers cut their numbers from long
vectors instead, in the order in which the network asks; elsewhere each draws for itself.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

# The first vector's length; each next one is twice as long, so ten of them hold 67 M numbers.
FIRST = 1 << 16

_source: contextvars.ContextVar[_Vectors | None] = contextvars.ContextVar("source", default=None)


def normal(std: float) -> Callable[..., jax.Array]:
  """An initialiser of N(0, std^2), for `Module.param`."""

  def draw(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    vectors = _source.get()
    numbers = jax.random.normal(key, shape) if vectors is None else vectors.take(shape)
    return (std * numbers).astype(dtype)

  return draw


def uniform(limit: float) -> Callable[..., jax.Array]:
  """An initialiser of equal chances between -limit and limit, for `Module.param`."""
  drawn = normal(1.0)

  def draw(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    # The share of a normal distribution below one of its numbers is equally likely to be anything.
    share = jax.scipy.stats.norm.cdf(drawn(key, shape))
    return (limit * (2 * share - 1)).astype(dtype)

  return draw


@contextlib.contextmanager
def few_draws(key: jax.Array) -> Iterator[None]:
  """Within it, in the thread that entered, `normal` takes its numbers from vectors drawn of `key`.

  What is asked for first is the same whatever follows: networks that differ in their last layers
  alone start from the same weights before them.
  """
  token = _source.set(_Vectors(key))
  try:
    yield
  finally:
    _source.reset(token)


class _Vectors:
  """Normal numbers, each handed out once."""

  def __init__(self, key: jax.Array):
    self.key, self.made, self.used = key, 0, 0
    self.numbers = jnp.zeros(0)

  def take(self, shape: tuple[int, ...]) -> jax.Array:
    size = math.prod(shape)
    if self.used + size > self.numbers.size:
      length = max(FIRST << self.made, size)
      self.numbers = jax.random.normal(jax.random.fold_in(self.key, self.made), (length,))
      self.made, self.used = self.made + 1, 0
    start, self.used = self.used, self.used + size
    return self.numbers[start : self.used].reshape(shape)
