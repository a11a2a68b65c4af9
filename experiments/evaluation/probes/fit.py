"""Probes that are trained by Adam with early stopping: all folds and seeds as one program.

A part of each training part, drawn by the seed, is held out; training ends when its loss has not
fallen for some epochs, and the parameters of its lowest loss count. The left-out group has no say
in that.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from experiments.evaluation.folds import Folds, Inputs

ROWS_AT_ONCE = 64  # test clips of each fold and seed that are classified side by side


@dataclasses.dataclass(frozen=True)
class FitConfig:
  """How a probe is trained."""

  epochs: int = 200  # at most
  patience: int = 20  # epochs without a lower loss on the held-out clips
  held_out: float = 0.15  # share of the training clips that decide when to stop
  batch: int = 64  # clips
  peak_lr: float = 1e-3  # of Adam, constant
  weight_decay: float = 1e-4  # decoupled, as AdamW does it


@dataclasses.dataclass(frozen=True)
class Probe:
  """A classifier as pure functions.

  Attributes:
    init: (key, d, classes) -> parameters.
    apply: (parameters, x, valid, key) -> logits f32[b, classes], where x is standardised: f32[b, d]
      with valid None, or f32[b, t, d] with valid bool[b, t]. The key is None outside of training.
  """

  init: Callable[[jax.Array, int, int], Any]
  apply: Callable[[Any, jax.Array, jax.Array | None, jax.Array | None], jax.Array]


def fit_probe(
  probe: Probe,
  cfg: FitConfig,
  inputs: Inputs,
  targets: np.ndarray,
  folds: Folds,
  *,
  seeds: int = 1,
  tagged: bool = False,
) -> np.ndarray:
  """Logits f32[seeds, n, classes] of every clip, by the probe that the other groups have trained.

  targets: f32[n, classes], one-hot, or tags where `tagged`. Seeds are 0, 1, and so on; a seed draws
  parameters, held-out clips, batches and dropout.
  """
  made = _fit(
    inputs.values, inputs.valid, inputs.shift, inputs.scale, targets,
    folds.train_rows, folds.train_count, folds.test_rows, jnp.arange(seeds),
    probe=probe, cfg=cfg, tagged=tagged,
  )  # fmt: skip
  return folds.gather(np.asarray(made))


@functools.partial(jax.jit, static_argnames=("probe", "cfg", "tagged"))
def _fit(
  values: jax.Array,
  valid: jax.Array | None,
  shift: Float[Array, "folds d"],
  scale: Float[Array, "folds d"],
  targets: Float[Array, "n c"],
  train_rows: Int[Array, "folds r"],
  train_count: Int[Array, " folds"],
  test_rows: Int[Array, "folds m"],
  seeds: Int[Array, " seeds"],
  *,
  probe: Probe,
  cfg: FitConfig,
  tagged: bool,
) -> Float[Array, "seeds folds m c"]:
  count = train_rows.shape[1]
  batch = min(cfg.batch, count)
  steps = math.ceil(count / batch)
  most_held = max(1, math.ceil(cfg.held_out * count))
  solver = optax.adamw(cfg.peak_lr, weight_decay=cfg.weight_decay)
  loss_of = optax.losses.sigmoid_binary_cross_entropy if tagged else None

  def fit(seed, fold, shift, scale, rows, real, test):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), seed), fold)
    draw, init, train_key = jax.random.split(key, 3)

    def logits_of(params, rows, key=None):
      x = values[rows]
      spread = (1,) * (x.ndim - 1) + (-1,)
      x = (x - shift.reshape(spread)) * scale.reshape(spread)
      return probe.apply(params, x, None if valid is None else valid[rows], key)

    def mean_loss(params, rows, weight, key=None):
      logits = logits_of(params, rows, key)
      each = (
        loss_of(logits, targets[rows]).sum(axis=1)
        if loss_of
        else optax.losses.softmax_cross_entropy(logits, targets[rows])
      )
      return jnp.sum(weight * each) / jnp.maximum(weight.sum(), 1.0)

    # Real rows in random order, then those that fill up; the first are held out.
    noise = jnp.where(jnp.arange(count) < real, jax.random.uniform(draw, (count,)), 2.0)
    order = rows[jnp.argsort(noise)]
    held = jnp.clip(jnp.round(cfg.held_out * real).astype(jnp.int32), 1, most_held)
    held_rows, held_weight = order[:most_held], (jnp.arange(most_held) < held).astype(jnp.float32)
    place = jnp.arange(count)
    learn = ((place >= held) & (place < real)).astype(jnp.float32)

    def epoch(carry):
      number, params, state, best, lowest, at = carry
      key = jax.random.fold_in(train_key, number)
      shuffled = jax.random.permutation(key, count)
      # The last batch is filled up with clips of no weight.
      shuffled = jnp.pad(shuffled, (0, steps * batch - count))
      weight = jnp.where(jnp.arange(steps * batch) < count, learn[shuffled], 0.0)

      def step(carry, part):
        params, state = carry
        places, weight, i = part
        grad = jax.grad(mean_loss)(params, order[places], weight, jax.random.fold_in(key, i))
        updates, state = solver.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), None

      parts = (shuffled.reshape(steps, batch), weight.reshape(steps, batch), jnp.arange(steps))
      (params, state), _ = jax.lax.scan(step, (params, state), parts)
      loss = mean_loss(params, held_rows, held_weight)
      better = loss < lowest
      best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best)
      at = jnp.where(better, number, at)
      return number + 1, params, state, best, jnp.minimum(loss, lowest), at

    def going(carry):
      number, _, _, _, _, at = carry
      return (number < cfg.epochs) & (number - at <= cfg.patience)

    params = probe.init(init, values.shape[-1], targets.shape[1])
    start = (0, params, solver.init(params), params, jnp.inf, 0)
    best = jax.lax.while_loop(going, epoch, start)[3]
    return jax.lax.map(lambda row: logits_of(best, row[None])[0], test, batch_size=ROWS_AT_ONCE)

  over_folds = jax.vmap(fit, in_axes=(None, 0, 0, 0, 0, 0, 0))
  numbers = jnp.arange(len(train_rows))
  return jax.vmap(lambda seed: over_folds(
    seed, numbers, shift, scale, train_rows, train_count, test_rows
  ))(seeds)  # fmt: skip
