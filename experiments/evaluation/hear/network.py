"""The benchmark's predictor: a shallow network over embeddings, as pure functions of a plain tree.

Every hidden layer is linear, batch norm, dropout, ReLU; embeddings go in as they are. Initial
values, batch norm and their constants are those of `heareval` 2021.1.3 and PyTorch: weights after
Glorot and Bengio with gain 1 from embeddings and sqrt(2) behind a ReLU, biases uniform within
1/sqrt(inputs), running variances without bias, momentum 0.1, epsilon 1e-5.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Key

Tree: TypeAlias = Any
MOMENTUM, EPSILON = 0.1, 1e-5
_DRAWS = 1 << 16  # dropout compares 16 random bits: its share is met to 1e-5


def initial(
  key: Key[Array, ""],
  sizes: tuple[int, ...],
  uniform: Bool[Array, ""],
) -> tuple[Tree, Tree]:
  """(parameters, running statistics) of a network of these sizes, from embedding to labels.

  uniform: whether weights are drawn uniformly, or else normally, of the same variance.
  """
  params, stats = [], []
  for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
    drawn, bias = jax.random.split(jax.random.fold_in(key, i))
    gain = math.sqrt(2) if i else 1.0
    deviation = gain * math.sqrt(2 / (inputs + outputs))
    shape = (inputs, outputs)
    kernel = jnp.where(
      uniform,
      jax.random.uniform(drawn, shape, minval=-math.sqrt(3), maxval=math.sqrt(3)),
      jax.random.normal(drawn, shape),
    )
    edge = 1 / math.sqrt(inputs)
    layer = {
      "kernel": deviation * kernel,
      "bias": jax.random.uniform(bias, (outputs,), minval=-edge, maxval=edge),
    }
    if i + 2 < len(sizes):
      layer |= {"scale": jnp.ones(outputs), "shift": jnp.zeros(outputs)}
      stats.append({"mean": jnp.zeros(outputs), "var": jnp.ones(outputs)})
    params.append(layer)
  return params, stats


def infer(params: Tree, stats: Tree, x: Float32[Array, "n d"]) -> Float32[Array, "n k"]:
  """Logits of embeddings, by the running statistics."""
  for layer, told in zip(params[:-1], stats, strict=True):
    x = _normalised(_linear(layer, x), told["mean"], told["var"], layer)
    x = jax.nn.relu(x)
  return _linear(params[-1], x)


def train(
  params: Tree, stats: Tree, x: Float32[Array, "n d"], key: Key[Array, ""], dropout: float
) -> tuple[Float32[Array, "n k"], Tree]:
  """(logits, running statistics) of a batch of two rows or more."""
  rows = len(x)
  moved = []
  # Batch norm takes these biases out again: their gradients are rounding, of which Adam would make
  # whole steps, so that two machines or two companies of candidates would part.
  hidden = [{**layer, "bias": jax.lax.stop_gradient(layer["bias"])} for layer in params[:-1]]
  for i, (layer, told) in enumerate(zip(hidden, stats, strict=True)):
    x = _linear(layer, x)
    mean, var = x.mean(axis=0), x.var(axis=0)
    found = {"mean": mean, "var": var * (rows / (rows - 1))}
    moved.append(jax.tree.map(lambda old, new: old + MOMENTUM * (new - old), told, found))
    x = _normalised(x, mean, var, layer)
    if dropout:
      bits = jax.random.bits(jax.random.fold_in(key, i), x.shape, jnp.uint16)
      x = jnp.where(bits < round(dropout * _DRAWS), 0.0, x / (1 - dropout))
    x = jax.nn.relu(x)
  return _linear(params[-1], x), moved


def _linear(layer: Tree, x: Float[Array, "n d"]) -> Float[Array, "n e"]:
  return x @ layer["kernel"] + layer["bias"][None]


def _normalised(
  x: Float[Array, "n d"], mean: Float[Array, " d"], var: Float[Array, " d"], layer: Tree
) -> Float[Array, "n d"]:
  factor = layer["scale"] * jax.lax.rsqrt(var + EPSILON)
  return (x - mean[None]) * factor[None] + layer["shift"][None]
