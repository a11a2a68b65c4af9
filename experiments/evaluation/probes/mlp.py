"""A perceptron with one hidden layer over scene vectors."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.evaluation.probes.fit import Probe


@functools.cache
def mlp(hidden: int, dropout: float) -> Probe:
  """Linear, ReLU, dropout, linear; He initialisation, zero biases."""
  return Probe(functools.partial(_init, hidden), functools.partial(_apply, dropout))


def _init(hidden: int, key: jax.Array, width: int, classes: int) -> dict[str, jax.Array]:
  first, second = jax.random.split(key)
  return {
    "hidden": jax.random.normal(first, (width, hidden)) * (2 / width) ** 0.5,
    "hidden_bias": jnp.zeros(hidden),
    "out": jax.random.normal(second, (hidden, classes)) * hidden**-0.5,
    "out_bias": jnp.zeros(classes),
  }


def _apply(
  dropout: float,
  params: dict[str, Any],
  x: Float[Array, "b d"],
  valid: None,
  key: jax.Array | None,
) -> Float[Array, "b c"]:
  del valid
  hidden = jax.nn.relu(x @ params["hidden"] + params["hidden_bias"][None])
  if key is not None and dropout > 0:
    kept = jax.random.bernoulli(key, 1 - dropout, hidden.shape)
    hidden = jnp.where(kept, hidden / (1 - dropout), 0.0)
  return hidden @ params["out"] + params["out_bias"][None]
