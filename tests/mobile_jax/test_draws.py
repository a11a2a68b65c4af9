"""Random starts: from a few draws inside `few_draws`, each for itself elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np

from mobile_jax import draws
from mobile_jax.draws import few_draws, normal

KEY = jax.random.key(5)
SHAPES = [(3, 4), (2,), (7, 3, 3), (1,), (5, 5)]


def take(shapes):
  return [np.asarray(normal(1.0)(KEY, shape)) for shape in shapes]


def test_numbers_are_handed_out_once(monkeypatch):
  """Whatever the lengths of the vectors, down to vectors shorter than one parameter."""
  for first in (1, 16, 1 << 10):
    monkeypatch.setattr(draws, "FIRST", first)
    with few_draws(KEY):
      found = take(SHAPES)
    assert [x.shape for x in found] == SHAPES
    numbers = np.concatenate([x.ravel() for x in found])
    assert len(set(numbers.tolist())) == numbers.size


def test_the_first_ones_are_the_same_whatever_follows():
  with few_draws(KEY):
    short = take(SHAPES[:2])
  with few_draws(KEY):
    long = take(SHAPES)
  for one, other in zip(short, long, strict=False):
    np.testing.assert_array_equal(one, other)
  with few_draws(jax.random.key(6)):
    assert not np.array_equal(take(SHAPES[:1])[0], short[0])


def test_deviation_and_type():
  with few_draws(KEY):
    wide = normal(3.0)(KEY, (200, 200), jnp.bfloat16)
  assert wide.dtype == jnp.bfloat16
  wide = np.asarray(wide, np.float32)
  assert abs(wide.std() - 3) < 5 * 3 / np.sqrt(2 * wide.size)
  assert abs(wide.mean()) < 5 * 3 / np.sqrt(wide.size)


def test_outside_each_draws_with_its_own_key():
  np.testing.assert_array_equal(normal(0.5)(KEY, (4,)), 0.5 * jax.random.normal(KEY, (4,)))
  with few_draws(KEY):
    assert not np.array_equal(take([(4,)])[0], jax.random.normal(KEY, (4,)))
  np.testing.assert_array_equal(take([(4,)])[0], jax.random.normal(KEY, (4,)))
