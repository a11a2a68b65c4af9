"""AdamW's update of one array on a CPU, with a guard, in two passes over memory.

XLA runs a loop for each result and one more for each choice between old and new, so that the update
of a large model takes a good part of a training step. Ask `on_one_cpu` first.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from dasheng_jax.native.calls import call


def adamw_numbers(
  *,
  rate: jax.Array,
  corrections: tuple[jax.Array, jax.Array],
  beta1: float,
  beta2: float,
  eps: float,
  decay: float,
  good: jax.Array | bool = True,
) -> Float32[Array, " 9"]:
  """What an update is made with, in the order of adamw.h.

  Args:
    rate: f32[], of learning.
    corrections: 1 - beta1**n and 1 - beta2**n, f32[] each, for update number n from 1.
    beta1: kept share of the mean of gradients.
    beta2: kept share of the mean of squared gradients.
    eps: added to the root.
    decay: decoupled, and scaled by the rate.
    good: bool[]; where it is false, `adamw` changes nothing.
  """
  first, second = corrections
  numbers = (
    rate, 1 / first, 1 / jnp.sqrt(second), 1 - beta1, beta2, 1 - beta2, eps, decay, good,
  )  # fmt: skip
  return jnp.stack([jnp.asarray(x, jnp.float32) for x in numbers])


def adamw_sums(
  numbers: Float32[Array, " 9"],
  params: Float32[Array, "*shape"],
  mean: Float32[Array, "*shape"],
  square: Float32[Array, "*shape"],
  gradient: Float32[Array, "*shape"],
) -> Float32[Array, " 3"]:
  """Sums of squares: of the gradient, of the parameters after the update, and of those before.

  The same to the last bit whatever the number of threads. Not finite where one of these is not.
  """
  return call("dasheng_adamw_sums", [(3,)], numbers, params, mean, square, gradient)[0]


def adamw(
  numbers: Float32[Array, " 9"],
  params: Float32[Array, "*shape"],
  mean: Float32[Array, "*shape"],
  square: Float32[Array, "*shape"],
  gradient: Float32[Array, "*shape"],
) -> tuple[Float32[Array, "*shape"], Float32[Array, "*shape"], Float32[Array, "*shape"]]:
  """(params, mean, square) after the update, or as they are where `numbers` forbids it.

  They take the memory of the operands if nobody needs these any more.
  """
  return tuple(call("dasheng_adamw", [params.shape] * 3, numbers, params, mean, square, gradient))
