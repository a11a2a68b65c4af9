"""A small state and its checkpoints, on one device and on eight: what their tests share."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training.checkpoint import Checkpoints
from experiments.training.mesh import MeshConfig, batch_sharding, make_mesh
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.paths import leaves_by_path
from experiments.training.state import init_state, restore_target
from experiments.training.step import compile_train_step
from tests.experiments.training import toy

OPTIMISER = make_optimiser(
  OptimConfig(warmup_steps=2, peak_lr=1e-2, ema=0.9, clip_norm=0.5, accumulate=2), steps=10
)
CONFIG = {"model": {"width": 16, "sizes": (1, 2)}, "mesh": {"data": -1}}
LAYOUTS = {"one": None, "eight": MeshConfig(data=2, fsdp=2, tensor=2)}


@cache
def mesh_of(name):
  layout = LAYOUTS[name]
  return make_mesh(layout) if layout else make_mesh(devices=jax.devices()[:1])


@cache
def step_fn(name):
  return compile_train_step(toy.TASK, OPTIMISER, mesh_of(name), 0)


@cache
def start():
  return jax.device_get(init_state(toy.TASK, OPTIMISER, mesh_of("one"), 0))


def target(name):
  return restore_target(toy.TASK, OPTIMISER, mesh_of(name))


def fresh(name):
  return jax.tree.map(lambda x, t: jax.device_put(x, t.sharding), start(), target(name))


def advance(state, name, steps):
  mesh = mesh_of(name)
  with jax.set_mesh(mesh):
    for _ in range(steps):
      batch = jax.device_put(toy.batch(int(state.step)), batch_sharding(mesh))
      state, _ = step_fn(name)(state, batch)
  return state


def at(step, name="one"):
  return dataclasses.replace(fresh(name), step=jnp.int32(step))


open_run = partial(Checkpoints, config=CONFIG, seed=0, data="synthetic:1")


def assert_same_bits(a, b):
  b = leaves_by_path(b)
  for path, leaf in leaves_by_path(a).items():
    assert np.asarray(leaf).tobytes() == np.asarray(b[path]).tobytes(), path
