"""The training state: all that the next step reads, and so all that a checkpoint holds."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.training.errors import UsageError
from experiments.training.keys import stream_key
from experiments.training.mesh import AnyMesh, Placement, place, placements
from experiments.training.optim import Optimiser
from experiments.training.paths import leaves_by_path, map_by_path
from experiments.training.rounding import narrow, widen
from experiments.training.task import Task


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
  """All that one step hands to the next.

  Attributes:
    step: i32[], batches consumed so far, which is also the index of the next batch.
    params: what the optimiser changes: float32, or kernels in bfloat16 (`rounding.PARAMS`).
    model_state: batch statistics and the like.
    opt_state: moments and counters of the optimiser.
    ema: moving average of params in float32, or None where it is off.
    skipped: i32[], batches that changed nothing because loss or gradient was not finite.
    skipped_in_row: i32[], the same since the last good batch.
  """

  step: Any
  params: Any
  model_state: Any
  opt_state: Any
  ema: Any
  skipped: Any
  skipped_in_row: Any


def _create(task: Task, optimiser: Optimiser, key: jax.Array) -> TrainState:
  # A weakly typed initial value (`jnp.full(shape, 0.02)`) would compile the step a second time.
  variables = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), task.init(key))
  params = variables["params"]
  if optimiser.cfg.params == "bfloat16":
    params = narrow(params)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state=variables["model_state"],
    opt_state=optimiser.init(params, task.param_axes),
    ema=jax.tree.map(jnp.copy, widen(params)) if optimiser.cfg.ema else None,
    skipped=jnp.zeros((), jnp.int32),
    skipped_in_row=jnp.zeros((), jnp.int32),
  )


@functools.lru_cache(maxsize=8)  # it is asked for by whoever starts, saves or restores
def abstract_state(task: Task, optimiser: Optimiser) -> TrainState:
  """Shapes and dtypes of the state, not to be changed; allocates nothing, whatever the size."""
  return jax.eval_shape(lambda key: _create(task, optimiser, key), jax.random.key(0))


def state_placements(task: Task, state: TrainState, mesh: AnyMesh) -> TrainState:
  """A `Placement` for every array of a (perhaps abstract) state; `mesh.format_table` prints it.

  Parameters follow the task's table. Moments and EMA end in the path of their parameter and go
  where it goes; so do the codes and scales of 8-bit moments, one level below it. Scalars and
  `model_state` (per-channel statistics) are whole on every device.

  Raises:
    UsageError: for a parameter without a rule, or an optimiser array that belongs to no parameter.
  """
  params = placements(state.params, task.param_axes, mesh)
  by_path = leaves_by_path(params)

  def whole(path: str, leaf: Any) -> Placement:
    return place(leaf, (), mesh, path)

  def like_parameter(path: str, leaf: Any) -> Placement:
    if not leaf.shape:
      return whole(path, leaf)
    parts = path.split("/")
    for end, fits in ((len(parts), tuple.__eq__), (len(parts) - 1, _covers)):
      for start in range(end):
        twin = by_path.get("/".join(parts[start:end]))
        if twin is not None and fits(twin.shape, tuple(leaf.shape)):
          return _split_like(twin, leaf, mesh)
    raise UsageError(
      f"optimiser array {path} {tuple(leaf.shape)} has no parameter to be placed with"
    )

  return TrainState(
    step=whole("step", state.step),
    params=params,
    model_state=map_by_path(whole, state.model_state),
    opt_state=map_by_path(like_parameter, state.opt_state),
    ema=map_by_path(like_parameter, state.ema),
    skipped=whole("skipped", state.skipped),
    skipped_in_row=whole("skipped_in_row", state.skipped_in_row),
  )


def _covers(shape: tuple[int, ...], parts: tuple[int, ...]) -> bool:
  """Whether an array has the parameter's shape, or one value for each of its blocks."""
  return len(shape) == len(parts) and all(k <= n for n, k in zip(shape, parts, strict=True))


def _split_like(twin: Placement, leaf: Any, mesh: AnyMesh) -> Placement:
  """An array of the parameter's shape, or of one value per block, split as the parameter is.

  An axis with fewer blocks than a mesh splits evenly stays whole.
  """
  entries: list[Any] = []
  notes = [twin.note] if twin.note else []
  spread = 1
  for size, entry in zip(leaf.shape, twin.spec, strict=False):
    axes = () if entry is None else (entry,) if isinstance(entry, str) else entry
    parts = math.prod(mesh.shape[axis] for axis in axes)
    if size % parts:
      notes.append(f"whole: {parts} devices cut its {size} blocks, so their scales move each step")
      entry, parts = None, 1
    entries.append(entry)
    spread *= parts
  while entries and entries[-1] is None:
    entries.pop()
  size_bytes = math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize
  return Placement(
    tuple(leaf.shape),
    str(leaf.dtype),
    PartitionSpec(*entries),
    size_bytes // spread,
    "; ".join(notes),
  )


def state_shardings(task: Task, optimiser: Optimiser, mesh: Mesh) -> TrainState:
  """A NamedSharding for every array of the state."""
  table = state_placements(task, abstract_state(task, optimiser), mesh)
  return jax.tree.map(lambda p: NamedSharding(mesh, p.spec), table)


def restore_target(task: Task, optimiser: Optimiser, mesh: Mesh) -> TrainState:
  """ShapeDtypeStructs with shardings: what a checkpoint is restored into."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    abstract_state(task, optimiser),
    state_shardings(task, optimiser, mesh),
  )


def begin_with(state: TrainState, variables: Mapping[str, Any]) -> TrainState:
  """A fresh state with other parameters and batch statistics, placed as the state's own are.

  variables: {"params", "model_state"} of the same shapes, in memory; the moving average begins with
    them too. Raises UsageError naming the first array that does not fit.
  """

  def put(path: str, old: jax.Array, new: Any) -> jax.Array:
    if tuple(np.shape(new)) != tuple(old.shape):
      raise UsageError(f"initial weights: {path} has shape {np.shape(new)}, not {old.shape}")
    values = np.asarray(new).astype(old.dtype)
    return jax.make_array_from_callback(old.shape, old.sharding, lambda index: values[index])

  def replace(tree: Any, given: Any) -> Any:
    ours, theirs = leaves_by_path(tree), leaves_by_path(given)
    if strange := sorted(set(ours) ^ set(theirs)):
      raise UsageError(f"initial weights: {strange[0]} is in one of model and weights alone")
    return map_by_path(lambda path, old: put(path, old, theirs[path]), tree)

  return dataclasses.replace(
    state,
    params=replace(state.params, variables["params"]),
    model_state=replace(state.model_state, variables["model_state"]),
    ema=None if state.ema is None else replace(state.ema, variables["params"]),
  )


def init_state(task: Task, optimiser: Optimiser, mesh: Mesh, seed: int) -> TrainState:
  """The state before the first step, born sharded: each device makes only its own slices."""
  shardings = state_shardings(task, optimiser, mesh)
  with jax.set_mesh(mesh):
    create = jax.jit(lambda key: _create(task, optimiser, key), out_shardings=shardings)
    key = jax.device_put(stream_key(seed, "init"), NamedSharding(mesh, PartitionSpec()))
    return create(key)
