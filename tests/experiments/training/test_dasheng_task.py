"""Dasheng as a task: what enters the loss, and which encoder a state hands over."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.config import SIZES
from dasheng_jax.inference import embed
from dasheng_jax.weights.load import encoder_shapes
from experiments.training.dasheng_task import dasheng_task, encoder_of, for_evaluation
from experiments.training.mesh import MeshConfig, make_mesh, placements
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.paths import leaves_by_path
from experiments.training.state import abstract_state, init_state
from tests.experiments.tiny_pretrain import MODEL, drawn_variables, quick_compiles

PER_CLIP = dataclasses.replace(MODEL, mel=dataclasses.replace(MODEL.mel, clamp="sample"))
SAMPLES = 6_400  # 10 patches
VALID = 2_500  # the first four patches hold audio


@functools.cache
def program(cfg, train):
  task = dasheng_task(cfg)

  @jax.jit
  def run(params, model_state, batch, key):
    if not train:
      value, (state, _) = task.loss(params, model_state, batch, key, train)
      return value, state, None

    def loss(params):
      return task.loss(params, model_state, batch, key, train)

    (value, (state, _)), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return value, state, grads

  return run


def evaluate(cfg, batch, train=True, seed=1):
  start = drawn_variables()
  with quick_compiles():
    return program(cfg, train)(start["params"], start["batch_stats"], batch, jax.random.key(seed))


def noise(rows, seed=0):
  return 0.1 * np.random.default_rng(seed).standard_normal((rows, SAMPLES)).astype(np.float32)


def assert_same(a, b):
  for path, leaf in leaves_by_path(a).items():
    np.testing.assert_array_equal(leaf, leaves_by_path(b)[path], err_msg=path)


def padded(seed, quiet=1e-3):
  """Two clips: one whole, one of VALID samples whose padding is noise of another seed.

  The last patch with audio begins before VALID, and its last window ends 736 samples behind that
  at most; what comes later is heard by padded patches alone.
  """
  wave = noise(2)
  wave[1, VALID:] = 0
  wave[1, VALID + 736 :] = quiet * noise(1, seed)[0, VALID + 736 :]
  return {"wave": wave, "valid": np.array([SAMPLES, VALID], np.int32)}


@pytest.mark.parametrize("seed", [1, 2])  # two masks
def test_ignored_padding_reaches_neither_loss_nor_gradient_nor_statistics(seed):
  one, other = (evaluate(PER_CLIP, padded(content), seed=seed) for content in (5, 6))
  assert_same(one, other)
  assert np.isfinite(one[0])


def test_learnt_padding_is_audio_like_any_other():
  cfg = dataclasses.replace(PER_CLIP, padding="learn")
  one, other = (evaluate(cfg, padded(content), train=False)[0] for content in (5, 6))
  assert one != other


def test_audio_before_the_padding_counts():
  batch = padded(5)
  wave = batch["wave"].copy()
  wave[1, VALID - 10] += 0.1
  assert evaluate(PER_CLIP, batch)[0] != evaluate(PER_CLIP, {**batch, "wave": wave})[0]


def test_padding_rows_of_an_evaluation_batch_do_not_count():
  wave = noise(4)
  wave[3] = 0.3  # what stands in a padding row is nobody's business
  batch = {"wave": wave, "valid": np.array([SAMPLES, SAMPLES, 3_000, SAMPLES], np.int32)}
  batch["mask"] = np.array([True, True, True, False])
  value = evaluate(PER_CLIP, batch, train=False)[0]
  changed = {**batch, "wave": np.concatenate([wave[:3], noise(1, 9)])}
  assert evaluate(PER_CLIP, changed, train=False)[0] == value
  changed = {**batch, "wave": np.concatenate([noise(1, 9), wave[1:]])}
  assert evaluate(PER_CLIP, changed, train=False)[0] != value


def test_evaluation_leaves_the_statistics_alone():
  batch = {"wave": noise(2), "valid": np.full(2, SAMPLES, np.int32)}
  assert_same(evaluate(PER_CLIP, batch, train=False)[1], drawn_variables()["batch_stats"])
  after = evaluate(PER_CLIP, batch, train=True)[1]
  assert any(
    np.any(np.asarray(leaf) != np.asarray(leaves_by_path(drawn_variables()["batch_stats"])[path]))
    for path, leaf in leaves_by_path(after).items()
  )


def test_every_parameter_has_a_place():
  task = dasheng_task(MODEL)
  state = abstract_state(task, make_optimiser(OptimConfig(warmup_steps=0), 1))
  table = leaves_by_path(placements(state.params, task.param_axes, make_mesh()))
  assert table.keys() == leaves_by_path(state.params).keys()


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_encoder_is_the_moving_average_where_there_is_one(ema):
  optimiser = make_optimiser(OptimConfig(warmup_steps=0, ema=ema), 1)
  state = abstract_state(dasheng_task(MODEL), optimiser)
  source = state.ema if ema else state.params
  encoder = encoder_of(state)
  assert encoder["params"] is source["encoder"]
  assert encoder["batch_stats"] is state.model_state["encoder"]


def test_evaluation_features_do_not_depend_on_neighbours():
  cfg = for_evaluation(MODEL.with_compute(dtype="bfloat16", remat="block"))
  assert cfg.mel.clamp == "sample"
  assert (cfg.compute.dtype, cfg.compute.remat) == ("float32", "none")
  assert cfg.encoder == MODEL.encoder


# Scanned layers are those of every exported encoder in test_pretrain.py, too.
@pytest.mark.slow
@pytest.mark.parametrize("scan", [True, False])
def test_the_encoder_is_one_that_files_and_evaluation_know(scan):
  cfg = SIZES["dasheng_micro"].with_compute(scan=scan)
  optimiser = make_optimiser(OptimConfig(warmup_steps=1), 2)
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  encoder = encoder_of(init_state(dasheng_task(cfg), optimiser, mesh, 0))
  shapes = jax.tree.map(lambda x: x.shape, encoder)
  assert shapes == jax.tree.map(lambda x: x.shape, encoder_shapes(cfg))
  assert jnp.isfinite(embed(for_evaluation(cfg), encoder, jnp.zeros((1, 3200)))).all()
