"""A pre-training run small enough for tests, and its compiled programs shared between runs."""

import contextlib
import dataclasses
import functools
import json
import os
import signal

import jax
import numpy as np
import pytest

from dasheng_jax.config import DecoderConfig, EncoderConfig
from dasheng_jax.mae import init_variables
from dasheng_jax.weights.table import unflatten
from experiments import pretrain
from experiments.configs.pretrain import EXPERIMENTS
from experiments.training import checkpoint_record, loop, state
from experiments.training.dasheng_task import dasheng_task
from experiments.training.mesh import MeshConfig, make_mesh
from experiments.training.metrics import read_metrics
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.paths import leaves_by_path, map_by_path
from experiments.training.step import compile_eval_step, compile_train_step

replace = dataclasses.replace
_DEBUG = EXPERIMENTS["debug"]
MODEL = replace(
  _DEBUG.model,
  encoder=EncoderConfig(32, 2, 2, positions=16),
  decoder=DecoderConfig(32, 1, 2),
  padding="ignore",
)
TINY = replace(
  _DEBUG,
  model=MODEL,
  data=replace(_DEBUG.data, source=("synthetic:10",), crop_seconds=0.4, crop="random"),
  optim=OptimConfig(warmup_steps=2, ema=0.9),
  loop=replace(_DEBUG.loop, steps=4, validate_every=2, save_every=2, keep=9),
)
UNTIMED = ("clips_per_second", "idle_share")


def with_loop(cfg, **changes):
  return replace(cfg, loop=replace(cfg.loop, **changes))


@contextlib.contextmanager
def quick_compiles():
  """Within it, programs compile in half the time and run slower."""
  jax.config.update("jax_disable_most_optimizations", True)
  try:
    yield
  finally:
    jax.config.update("jax_disable_most_optimizations", False)


@contextlib.contextmanager
def shared_programs():
  """Within it, runs on one device unless their mesh says more, and alike runs compile once."""

  @functools.cache
  def first_state(task, optimiser, mesh, seed):
    return jax.device_get(state.init_state(task, optimiser, mesh, seed))

  def init_state(task, optimiser, mesh, seed):
    shardings = state.state_shardings(task, optimiser, mesh)
    return jax.tree.map(jax.device_put, first_state(task, optimiser, mesh, seed), shardings)

  def mesh_of(cfg):
    return make_mesh(cfg, jax.devices()[:1] if cfg == MeshConfig() else jax.devices())

  abstract = functools.cache(state.abstract_state)
  with quick_compiles(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(pretrain, "make_mesh", mesh_of)
    patch.setattr(pretrain, "dasheng_task", functools.cache(dasheng_task))
    patch.setattr(pretrain, "make_optimiser", functools.cache(make_optimiser))
    patch.setattr(loop, "compile_train_step", functools.cache(compile_train_step))
    patch.setattr(loop, "compile_eval_step", functools.cache(compile_eval_step))
    for module in (pretrain, state):
      patch.setattr(module, "abstract_state", abstract)
    for module in (pretrain, loop):
      patch.setattr(module, "init_state", init_state)
    yield


@functools.cache
def drawn_variables():
  """Variables of MODEL without the seconds that its own initialisation takes to compile."""
  draw = np.random.default_rng(0)

  def value(path, leaf):
    if path.endswith("var"):
      return draw.uniform(100, 200, leaf.shape)
    if path.endswith("count"):
      return 3
    return draw.normal(-30 if path.endswith("mean") else "scale" in path, 0.1, leaf.shape)

  shapes = jax.eval_shape(functools.partial(init_variables, MODEL), jax.random.key(0))
  return map_by_path(lambda p, x: jax.numpy.asarray(value(p, x), x.dtype), shapes)


class Watched:
  """Stands for `pretrain.batches`: notes the ids of every batch by step, and may meddle.

  before: step index -> called just before that batch is handed over. change: (step index, batch)
  -> the batch to hand over.
  """

  def __init__(self, original, before=None, change=None):
    self.original, self.before, self.change = original, before or {}, change
    self.ids = {}

  def __call__(self, dataset, **how):
    inner = self.original(dataset, **how)
    watched = self

    class Iterator:
      step = how["start_step"]
      wait_seconds = property(lambda _: inner.wait_seconds)

      def __enter__(self):
        return self

      def __exit__(self, *exception):
        inner.close()

      def __next__(self):
        watched.before.get(self.step, lambda: None)()
        batch = next(inner)
        watched.ids[self.step] = tuple(batch["id"])
        batch = watched.change(self.step, batch) if watched.change else batch
        self.step += 1
        return batch

    return Iterator()


def terminate():
  os.kill(os.getpid(), signal.SIGTERM)


def arrays(workdir, step):
  """Every array of a checkpoint on the host, by path, read without the code under test."""
  import orbax.checkpoint as ocp

  folder = workdir / "checkpoints" / str(step)
  record = read_json(folder / "meta" / "metadata")["arrays"]
  # As arrays of the host, wherever they were saved.
  on_host = unflatten({path: ocp.RestoreArgs(restore_type=np.ndarray) for path in record})
  state = checkpoint_record.absolute(folder / "state")
  restored = ocp.PyTreeCheckpointer().restore(
    state, args=ocp.args.PyTreeRestore(item=on_host, restore_args=on_host)
  )
  return {path: np.asarray(x) for path, x in leaves_by_path(restored).items()}


def assert_same_arrays(a, b):
  assert a.keys() == b.keys()
  for path in a:
    assert a[path].tobytes() == b[path].tobytes(), path


def rows(workdir):
  """{(step, part): values without timings}; every pair must stand there once."""
  lines = read_metrics(workdir / "metrics.jsonl")
  table = {(line.pop("step"), line.pop("part")): line for line in lines}
  assert len(table) == len(lines)
  return {
    key: {k: v for k, v in values.items() if k not in UNTIMED} for key, values in table.items()
  }


def read_json(path):
  return json.loads(path.read_text())
