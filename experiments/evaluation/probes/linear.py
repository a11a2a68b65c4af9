"""Logistic regression on frozen features, all folds as one program, to convergence by L-BFGS.

The objective is scikit-learn's, divided by C and the number of training clips: the mean loss, and
half the squared weights over C n. Biases are free. Clips of one class each get a softmax over
classes, tags a sigmoid each, whose losses are added. Two classes are scikit-learn's case of one
sigmoid: a softmax over them needs half of each weight, so squared weights count twice.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

STEPS = 1_000
# Largest gradient at which to stop; scikit-learn's own tolerance is 1e-4.
TOLERANCE = 2e-6
# In float32 the objective moves no more once it is this near to its minimum.
STALLED_STEPS = 8
NEVER = -1e9  # output of a class that a training part lacks


@functools.partial(jax.jit, static_argnames=("tagged", "steps"))
def fit_logistic(
  values: Float[Array, "n d"],
  shift: Float[Array, "folds d"],
  scale: Float[Array, "folds d"],
  train: Bool[Array, "folds n"],
  targets: Float[Array, "n c"],
  c: float,
  *,
  tagged: bool = False,
  steps: int = STEPS,
) -> Float[Array, "folds n c"]:
  """Logits of every clip by the regression that each fold's training clips give.

  Features are standardised fold by fold as `experiments.evaluation.folds.Inputs` says. A class that
  no training clip has is left out, and gets NEVER.
  """

  def fit(shift: jax.Array, scale: jax.Array, train: jax.Array) -> jax.Array:
    weight = train.astype(jnp.float32)
    present = weight @ targets > 0
    penalty = jnp.where((present.sum() == 2) & (not tagged), 2.0, 1.0) / (2 * c)

    def logits_of(params: Any) -> jax.Array:
      # Standardisation moves into the weights: the product with the features is one for all folds.
      kernel = params["kernel"] * scale[:, None]
      return values @ kernel + (params["bias"] - shift @ kernel)[None]

    def objective(params: Any) -> jax.Array:
      total = jnp.sum(weight * losses(logits_of(params), targets, present, tagged))
      return (total + penalty * jnp.sum(jnp.square(params["kernel"]))) / weight.sum()

    kernel = jnp.zeros((values.shape[1], targets.shape[1]))
    found = minimise(objective, {"kernel": kernel, "bias": jnp.zeros(targets.shape[1])}, steps)
    return jnp.where(present[None], logits_of(found), NEVER)

  return jax.vmap(fit)(shift, scale, train)


def losses(
  logits: Float[Array, "n c"],
  targets: Float[Array, "n c"],
  present: Bool[Array, " c"],
  tagged: bool,
) -> Float[Array, " n"]:
  """-ln p of each clip's targets, in nats, over the classes that are `present`."""
  if tagged:
    each = optax.losses.sigmoid_binary_cross_entropy(logits, targets)
    return jnp.where(present[None], each, 0.0).sum(axis=1)
  masked = jnp.where(present[None], logits, NEVER)
  return -jnp.sum(jnp.where(targets > 0, targets * jax.nn.log_softmax(masked), 0.0), axis=1)


def minimise(objective: Any, params: Any, steps: int) -> Any:
  """The minimum by L-BFGS, found when the gradient or the progress is as good as nothing."""
  solver = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(objective)

  def step(carry: tuple) -> tuple:
    params, state, best, stalled, count = carry
    value, grad = value_and_grad(params, state=state)
    updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=objective)
    now = optax.tree.get(state, "value")
    stalled = jnp.where(now < best * (1 - 1e-7), 0, stalled + 1)
    return optax.apply_updates(params, updates), state, jnp.minimum(best, now), stalled, count + 1

  def going(carry: tuple) -> jax.Array:
    _, state, _, stalled, count = carry
    grad = optax.tree.get(state, "grad")
    steep = optax.tree.norm(grad, ord=jnp.inf) > TOLERANCE
    return (count == 0) | (steep & (stalled < STALLED_STEPS) & (count < steps))

  start = (params, solver.init(params), jnp.inf, 0, 0)
  return jax.lax.while_loop(going, step, start)[0]
