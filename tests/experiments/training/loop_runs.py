"""Runs of a task that compiles at once: what tests of the loop share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training import loop
from experiments.training.mesh import make_mesh
from experiments.training.metrics import read_metrics
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.paths import leaves_by_path
from experiments.training.run import LoopConfig, Run
from experiments.training.state import init_state
from experiments.training.step import compile_eval_step, compile_train_step
from experiments.training.task import Task
from experiments.training.unusable import Unusable
from pipelines.ledger import Ledger
from tests.experiments.tiny_pretrain import quick_compiles
from tests.experiments.training import toy

CFG = LoopConfig(
  steps=6, batch_size=8, seed=0, log_every=1, validate_every=0, save_every=2, keep=9, keep_best=0
)
OPTIMISER = make_optimiser(OptimConfig(warmup_steps=0, schedule="constant", peak_lr=1e-2), 6)


def wave_loss(params, model_state, batch, key, train, *, noise):
  """The toy's loss on the fields that the loop passes on."""
  wave = batch["wave"]
  target = jnp.tanh(wave[:, : toy.H] - wave[:, toy.H :])
  filled = {**batch, "target": target}
  return toy.loss(params, model_state, filled, key, train, noise=noise)


TASK = Task(toy.init, functools.partial(wave_loss, noise=0.1), toy.PARAM_AXES)
QUIET = Task(toy.init, functools.partial(wave_loss, noise=0.0), toy.PARAM_AXES)
_first_state = functools.cache(lambda *a: jax.device_get(init_state(*a)))
_train_step = functools.cache(compile_train_step)
_eval_step = functools.cache(compile_eval_step)


@pytest.fixture(autouse=True, scope="module")
def compiled_once():
  """In a file that imports it, runs that are alike compile once, with those of other files."""
  with quick_compiles(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "init_state", lambda *a: jax.tree.map(jnp.array, _first_state(*a)))
    patch.setattr(loop, "compile_train_step", _train_step)
    patch.setattr(loop, "compile_eval_step", _eval_step)
    yield


class Batches:
  """Host batches from a pure function of the step."""

  def __init__(self, make, steps):
    self.steps, self.make = iter(steps), make
    self.wait_seconds, self.closed = 0.0, False

  def __iter__(self):
    return self

  def __next__(self):
    return self.make(next(self.steps))

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.closed = True


def clips(step, rows=8):
  wave = toy.batch(step, rows)["wave"]
  return {"wave": wave, "id": np.array([f"{step}/{i}" for i in range(rows)])}


def make_run(workdir, cfg=CFG, make=clips, task=TASK, optimiser=OPTIMISER, **changes):
  def batches(start, steps, host, hosts):
    assert (host, hosts) == (0, 1)
    return Batches(make, range(start, start + steps))

  run = Run(
    task=task,
    optimiser=optimiser,
    mesh=make_mesh(devices=jax.devices()[:1]),
    cfg=cfg,
    workdir=workdir,
    batches=batches,
    validation=None,
    record={"loop": dataclasses.asdict(cfg)},
    data="toy",
    may_differ=("config.loop",),
    clip_seconds=1.0,
    unusable=Unusable(workdir, Ledger()),
  )
  return dataclasses.replace(run, **changes)


def with_cfg(**changes):
  return dataclasses.replace(CFG, **changes)


def table(workdir):
  return {(r["step"], r["part"]): r for r in read_metrics(workdir / "metrics.jsonl")}


def held_out(total, size):
  """The first `total` clips in padded batches of `size`; the padding is loud."""
  pool = np.concatenate([toy.batch(100 + i)["wave"] for i in range(3)])[:total]

  def make(index):
    wave = np.full((size, toy.D), 1e3, np.float32)
    part = pool[index * size : (index + 1) * size]
    wave[: len(part)] = part
    return {"wave": wave, "mask": np.arange(size) < len(part)}

  return lambda host, hosts: Batches(make, range(-(-total // size)))


def same_bits(a, b):
  b = leaves_by_path(b)
  return [p for p, x in leaves_by_path(a).items() if np.asarray(x).tobytes() != b[p].tobytes()]
