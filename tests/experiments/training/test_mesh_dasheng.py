"""Dasheng itself, small, over every layout of eight simulated devices: the run of one device."""

import dataclasses

import jax
import numpy as np
import pytest

from dasheng_jax.config import DecoderConfig, EncoderConfig
from experiments.training.dasheng_task import dasheng_task
from experiments.training.mesh import MeshConfig, batch_sharding, make_mesh
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.paths import leaves_by_path, map_by_path
from experiments.training.state import abstract_state, state_shardings
from experiments.training.step import compile_train_step
from tests.experiments.tiny_pretrain import MODEL, quick_compiles

# Eight heads, so that no axis is left whole where `tensor` has eight devices.
CFG = dataclasses.replace(
  MODEL,
  encoder=EncoderConfig(32, 2, 8, positions=16),
  decoder=DecoderConfig(32, 2, 8),
  target_norm="global",  # with the statistics of the input, what goes over all rows of a batch
)
TASK = dasheng_task(CFG)
OPTIMISER = make_optimiser(OptimConfig(peak_lr=1e-3, warmup_steps=2, ema=0.9), 10)
ROWS, SAMPLES, STEPS = 8, 6_400, 3
FAST = [(2, 2, 2)]
SLOW = [(8, 1, 1), (1, 8, 1), (1, 1, 8)]


def batch(step):
  """Clips of all levels and lengths, so that no device has an average share of the batch."""
  draw = np.random.default_rng(step)
  level = np.geomspace(1e-3, 0.3, ROWS, dtype=np.float32)[:, None]
  valid = np.linspace(1_500, SAMPLES, ROWS).astype(np.int32)
  wave = level * draw.standard_normal((ROWS, SAMPLES), np.float32)
  return {"wave": wave * (np.arange(SAMPLES)[None] < valid[:, None]), "valid": valid}


def three_steps(mesh, start):
  """The state after three steps, and the metrics of each."""
  shardings = state_shardings(TASK, OPTIMISER, mesh)
  state, metrics = jax.device_put(start, shardings), []
  with quick_compiles(), jax.set_mesh(mesh):
    step = compile_train_step(TASK, OPTIMISER, mesh, 0)
    for i in range(STEPS):
      state, seen = step(state, jax.device_put(batch(i), batch_sharding(mesh)))
      metrics.append(jax.device_get(seen))
  return jax.device_get(state), metrics


def first_state():
  """A state with drawn parameters, without the seconds that real initial values take to compile."""
  shapes, draw = abstract_state(TASK, OPTIMISER), np.random.default_rng(0)

  def value(path, leaf):
    level = 1.0 if path.endswith("scale") else 0.0
    return np.asarray(draw.normal(level, 0.1, leaf.shape), leaf.dtype)

  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  params = map_by_path(value, shapes.params)
  return dataclasses.replace(zeros, params=params, ema=params)


@pytest.fixture(scope="module")
def reference():
  """(first state, state after three steps, metrics) on one device."""
  start = first_state()
  return start, *three_steps(make_mesh(devices=jax.devices()[:1]), start)


def without_keys(path, leaf):
  """All but the biases of attention keys.

  They add the same to every score of a row, which softmax takes out again: their gradient is 0, and
  what Adam follows there is rounding.
  """
  return np.delete(leaf, 1, axis=1) if path.endswith("attn/qkv_bias") else leaf


@pytest.mark.parametrize(
  "layout", [*FAST, *(pytest.param(x, marks=pytest.mark.slow) for x in SLOW)]
)
def test_dasheng_trains_alike_on_every_layout(layout, reference):
  start, state, metrics = reference
  got, got_metrics = three_steps(make_mesh(MeshConfig(*layout)), start)
  for ours, theirs in zip(got_metrics, metrics, strict=True):
    assert ours.keys() == theirs.keys()
    for name in theirs:
      # Adam forgives a gradient of another scale; its norm does not.
      np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, err_msg=name)
  wanted = leaves_by_path(state)
  for path, leaf in leaves_by_path(got).items():
    ours, theirs = without_keys(path, leaf), without_keys(path, wanted[path])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=path)


def test_three_steps_move_more_than_the_tolerance(reference):
  start, state, metrics = reference
  moved = {
    p: np.abs(x - leaves_by_path(start.params)[p]).max()
    for p, x in leaves_by_path(state.params).items()
  }
  assert min(moved.values()) > 1e-4, moved
  assert [int(m["skipped"]) for m in metrics] == [0] * STEPS
