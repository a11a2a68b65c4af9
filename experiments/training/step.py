"""The training and evaluation step: small, pure, and jitted with the shardings of the table.

Call both under `jax.set_mesh(mesh)`: models say where rows are split with
`with_sharding_constraint` at block boundaries, which reads the mesh of the context.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.training.keys import stream_key
from experiments.training.mesh import LOGICAL, batch_sharding
from experiments.training.optim import Optimiser
from experiments.training.rounding import narrow, widen
from experiments.training.state import TrainState, state_shardings
from experiments.training.task import Batch, Metrics, Task, Tree
from experiments.training.update import guarded_update, keep_unless


def train_step(
  state: TrainState, batch: Batch, seed: int | jax.Array, *, task: Task, optimiser: Optimiser
) -> tuple[TrainState, Metrics]:
  """One batch: gradient, update, metrics.

  Where the loss, the gradient norm, the updated parameters or the new model state are not finite,
  params, opt_state, model_state and ema stay as they are, bit for bit. The step still advances,
  because it is the index of the batch: the run goes on with the next one and does not meet a bad
  batch for ever.

  Returns:
    The new state, and f32[] or i32[] metrics: the task's own but for `counted`, its scheduled
    values, loss, grad_norm (before clipping), lr, param_norm (after the update), skipped and
    skipped_in_row.
  """
  cfg = optimiser.cfg
  key = stream_key(seed, "mask", state.step)
  read = narrow(state.params) if cfg.params == "bfloat16_master" else state.params
  scheduled = task.at(state.step)
  loss, grads, model_state, metrics = _gradient(
    task, read, state.model_state, batch, scheduled, key, cfg.accumulate
  )

  lr = optimiser.rate(state.step)
  # A sound loss is no proof: a gradient or a statistic can overflow behind it.
  sound = jnp.isfinite(loss) & _all_finite(model_state)
  rounding_key = stream_key(seed, "round", state.step)
  done = guarded_update(optimiser, state, grads, lr, sound, rounding_key)
  model_state = keep_unless(done.good, model_state, state.model_state)
  bad = 1 - done.good.astype(jnp.int32)
  new = TrainState(
    step=state.step + 1,
    params=done.params,
    model_state=model_state,
    opt_state=done.opt_state,
    ema=done.ema,
    skipped=state.skipped + bad,
    skipped_in_row=(state.skipped_in_row + 1) * bad,
  )
  own = {
    **scheduled,
    "loss": loss,
    "grad_norm": done.grad_norm,
    "lr": lr,
    "param_norm": done.param_norm,
    "skipped": new.skipped,
    "skipped_in_row": new.skipped_in_row,
  }
  return new, {name: x for name, x in metrics.items() if name != "counted"} | own


def _all_finite(tree: Tree) -> jax.Array:
  floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
  return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in floats]))


def _gradient(
  task: Task,
  params: Tree,
  model_state: Tree,
  batch: Batch,
  scheduled: Batch,
  key: jax.Array,
  accumulate: int,
) -> tuple[jax.Array, Tree, Tree, Metrics]:
  """(loss, gradient, model state, metrics) of a batch, taken in `accumulate` microbatches.

  Each microbatch weighs what it counts (see `Task.loss`): one that is mostly padding adds little.
  The gradient is in the dtypes of the parameters, a sum over microbatches in float32.
  """

  def one(model_state: Tree, rows: Batch, row_key: jax.Array) -> tuple[Any, ...]:
    value = jax.value_and_grad(task.loss, has_aux=True)
    given = {**rows, **scheduled}
    (loss, (model_state, metrics)), grads = value(params, model_state, given, row_key, True)
    return loss, grads, model_state, metrics

  if accumulate == 1:
    return one(model_state, batch, key)

  def body(carry: tuple[Tree, Tree], inputs: tuple[jax.Array, Batch]) -> tuple[Any, Any]:
    total, model_state = carry
    index, rows = inputs
    loss, grads, model_state, metrics = one(model_state, rows, jax.random.fold_in(key, index))
    weight = metrics["counted"]
    total = jax.tree.map(lambda t, g: t + weight * g, total, grads)
    return (total, model_state), (loss, metrics)

  zeros = jax.tree.map(jnp.zeros_like, widen(params))
  micro = jax.tree.map(lambda x: _microbatches(x, accumulate), batch)
  (total, model_state), per_part = jax.lax.scan(
    body, (zeros, model_state), (jnp.arange(accumulate), micro)
  )
  weights = per_part[1].pop("counted")
  counted = jnp.sum(weights)
  whole = jnp.where(counted > 0, counted, 1.0)
  grads = jax.tree.map(lambda g: g / whole, total)
  loss, metrics = jax.tree.map(lambda x: jnp.sum(weights * x) / whole, per_part)
  return loss, grads, model_state, {**metrics, "counted": counted}


def _microbatches(x: jax.Array, parts: int) -> jax.Array:
  """[b, ...] -> [parts, b / parts, ...]; part i is rows i, i + parts, ...: no row moves."""
  split = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
  return jax.lax.with_sharding_constraint(split, PartitionSpec(None, LOGICAL["batch"]))


def eval_step(
  state: TrainState,
  batch: Batch,
  index: jax.Array,
  seed: int | jax.Array,
  *,
  task: Task,
  use_ema: bool = False,
) -> Metrics:
  """Metrics of one evaluation batch, with running statistics and the same draws every time.

  Args:
    state: read, never changed.
    batch: rows as in training; `mask` bool[b], where present, is False on padding.
    index: i32[], number of the batch within the evaluation set, which seeds its draws.
    seed: the run's seed.
    task: the model.
    use_ema: evaluate the moving average instead of the parameters.

  Returns:
    The task's metrics, of which `counted` weights a mean over batches, loss, and `rows` f32[]: how
    many rows are no padding. Beside `outputs`, if the task has them, `given` holds the batch
    without its waves.
  """
  params = state.ema if use_ema else state.params
  key = stream_key(seed, "eval", index)
  given = {**batch, **task.at(jnp.maximum(state.step - 1, 0))}
  loss, (_, metrics) = task.loss(params, state.model_state, given, key, False)
  if "outputs" in metrics:
    whole: Any = {"given": {name: x for name, x in batch.items() if name != "wave"}}
    metrics = {**metrics, **whole}
  if "mask" in batch:
    rows = jnp.sum(batch["mask"].astype(jnp.float32))
  else:
    rows = jnp.float32(jax.tree.leaves(batch)[0].shape[0])
  return {**metrics, "loss": loss, "rows": rows}


@dataclass(frozen=True)
class Seeded:
  """A jitted program with the run's seed as its last argument.

  The seed is no constant of the program, so runs that differ in it alone share one compilation
  where compiled programs are kept (`startup.keep_programs`). It is what `jax.random.key` makes of a
  Python number: its lower 32 bits.
  """

  program: Any
  seed: int
  sharding: NamedSharding

  def __call__(self, *args: Any) -> Any:
    """Runs it."""
    return self.program(*args, self._placed)

  def lower(self, *args: Any) -> Any:
    """As `jax.jit` has it; the devices need not be there."""
    return self.program.lower(*args, self._bits)

  @property
  def _bits(self) -> np.int32:
    return np.int64(self.seed).astype(np.int32)

  @cached_property
  def _placed(self) -> jax.Array:
    # Once, and said so: the loop allows no copy to a device that nobody asked for.
    return jax.device_put(self._bits, self.sharding)


def compile_train_step(task: Task, optimiser: Optimiser, mesh: Mesh, seed: int) -> Seeded:
  """Jitted (state, batch) -> (state, metrics). The given state is donated: do not use it again."""
  shardings = state_shardings(task, optimiser, mesh)
  whole = NamedSharding(mesh, PartitionSpec())
  program = jax.jit(
    partial(train_step, task=task, optimiser=optimiser),
    in_shardings=(shardings, batch_sharding(mesh), whole),
    out_shardings=(shardings, whole),
    donate_argnums=0,
  )
  return Seeded(program, seed, whole)


def compile_eval_step(
  task: Task, optimiser: Optimiser, mesh: Mesh, seed: int, use_ema: bool = False
) -> Seeded:
  """Jitted (state, batch, index) -> metrics, whole on every device."""
  whole = NamedSharding(mesh, PartitionSpec())
  program = jax.jit(
    partial(eval_step, task=task, use_ema=use_ema),
    in_shardings=(state_shardings(task, optimiser, mesh), batch_sharding(mesh), whole, whole),
    out_shardings=whole,
  )
  return Seeded(program, seed, whole)
