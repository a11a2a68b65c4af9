"""The guarded update: what a gradient does to the state, unless something in it is not finite.

Two ways to the same numbers. On meshes, GPUs and TPUs XLA does it all. On one CPU device, where its
loop for each result is bound by memory, AdamW on float32 parameters runs through
`dasheng_jax.native`: a pass that finds out whether the update may happen, and one that makes it, in
place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dasheng_jax import native
from experiments.training.optim import (
  Optimiser,
  apply_direction,
  bias_corrections,
  decay_mask,
  update_ema,
)
from experiments.training.rounding import round_like, widen
from experiments.training.state import TrainState
from experiments.training.task import Tree

# Below a million parameters all passes stay in the cache, and XLA's loops are as quick.
LEAST_PARAMETERS = 1 << 20


@dataclass(frozen=True)
class Updated:
  """What an update leaves behind; all but the norms and `good` as before where it was refused.

  Attributes:
    params: as stored.
    opt_state: moments and counters.
    ema: moving average, or None.
    good: bool[], whether the update happened.
    grad_norm: f32[], before clipping.
    param_norm: f32[], of what `params` holds.
  """

  params: Tree
  opt_state: Any
  ema: Tree
  good: jax.Array
  grad_norm: jax.Array
  param_norm: jax.Array


def guarded_update(
  optimiser: Optimiser,
  state: TrainState,
  grads: Tree,
  lr: jax.Array,
  sound: jax.Array,
  rounding_key: jax.Array,
) -> Updated:
  """One update, or none where `sound` is false or the norm of gradient or result is not finite.

  Args:
    optimiser: the run's.
    state: params, opt_state and ema are read.
    grads: like `state.params`.
    lr: f32[], learning rate.
    sound: bool[], what the caller knows of loss and model state.
    rounding_key: for parameters that are stored in bfloat16.
  """
  # In float32, whatever the parameters are stored in.
  grads = widen(grads)
  way = _in_place if _takes_in_place(optimiser, state.params, grads) else _by_xla
  return way(optimiser, state, grads, lr, sound, rounding_key)


def keep_unless(good: jax.Array, new: Tree, old: Tree) -> Tree:
  """`new` where good, else `old`, array by array."""
  return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)


def _by_xla(
  optimiser: Optimiser,
  state: TrainState,
  grads: Tree,
  lr: jax.Array,
  sound: jax.Array,
  rounding_key: jax.Array,
) -> Updated:
  cfg, wide = optimiser.cfg, widen(state.params)
  direction, opt_state = optimiser.direction.update(grads, state.opt_state, wide)
  params = apply_direction(wide, direction, lr)
  if cfg.params == "bfloat16":
    params = round_like(params, state.params, rounding_key)
  ema = update_ema(state.ema, widen(params), cfg.ema) if cfg.ema else state.ema
  grad_norm = optax.tree.norm(grads)
  # A sound gradient can still give an unsound update, as when a square overflows.
  good = sound & jnp.isfinite(grad_norm) & jnp.isfinite(optax.tree.norm(widen(params)))
  params, opt_state, ema = keep_unless(
    good, (params, opt_state, ema), (state.params, state.opt_state, state.ema)
  )
  return Updated(params, opt_state, ema, good, grad_norm, optax.tree.norm(widen(params)))


def _takes_in_place(optimiser: Optimiser, params: Tree, grads: Tree) -> bool:
  cfg = optimiser.cfg
  return (
    optimiser.kernels != "xla"
    and cfg.name == "adamw"
    and not cfg.coupled_decay
    and not cfg.clip_norm
    and not cfg.layer_rates
    and all(x.dtype == jnp.float32 for x in jax.tree.leaves((params, grads)))
    and sum(x.size for x in jax.tree.leaves(params)) >= LEAST_PARAMETERS
    and native.on_one_cpu()
  )


def _in_place(
  optimiser: Optimiser,
  state: TrainState,
  grads: Tree,
  lr: jax.Array,
  sound: jax.Array,
  rounding_key: jax.Array,
) -> Updated:
  del rounding_key  # nothing is rounded
  cfg = optimiser.cfg
  (adam,) = (x for x in _adam_states(state.opt_state) if _is_adam(x))
  count = adam.count + 1

  def numbers(decays: bool, good: jax.Array | bool = True) -> jax.Array:
    return native.adamw_numbers(
      rate=lr,
      corrections=bias_corrections(count, cfg.beta1, cfg.beta2),
      beta1=cfg.beta1,
      beta2=cfg.beta2,
      eps=cfg.eps,
      decay=cfg.weight_decay if decays else 0.0,
      good=good,
    )

  each = (state.params, adam.mu, adam.nu, grads)
  decays = decay_mask(cfg, state.params)
  sums = jax.tree.map(lambda d, *leaf: native.adamw_sums(numbers(d), *leaf), decays, *each)
  grad_norm, after, before = jnp.sqrt(sum(jax.tree.leaves(sums)))
  good = sound & jnp.isfinite(grad_norm) & jnp.isfinite(after)
  done = jax.tree.map(lambda d, *leaf: native.adamw(numbers(d, good), *leaf), decays, *each)
  params, mu, nu = jax.tree.transpose(
    jax.tree.structure(grads), jax.tree.structure((0, 0, 0)), done
  )
  new = optax.ScaleByAdamState(jnp.where(good, count, adam.count), mu, nu)
  opt_state = jax.tree.map(lambda x: new if _is_adam(x) else x, state.opt_state, is_leaf=_is_adam)
  ema = update_ema(state.ema, params, cfg.ema) if cfg.ema else state.ema
  return Updated(
    params,
    opt_state,
    keep_unless(good, ema, state.ema),
    good,
    grad_norm,
    jnp.where(good, after, before),
  )


def _adam_states(opt_state: Any) -> list[Any]:
  return jax.tree.leaves(opt_state, is_leaf=_is_adam)


def _is_adam(x: Any) -> bool:
  return isinstance(x, optax.ScaleByAdamState)
