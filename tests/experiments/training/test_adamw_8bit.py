"""8-bit AdamW: the recorded steps of bitsandbytes, any layout of devices, exact resume."""

import dataclasses
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dasheng_jax.config import SIZES
from experiments.training.adamw_8bit import in_8_bits
from experiments.training.checkpoint import Checkpoints
from experiments.training.dasheng_task import dasheng_task
from experiments.training.mesh import MeshConfig, imagined_mesh, make_mesh
from experiments.training.optim import (
  OptimConfig,
  apply_direction,
  make_optimiser,
  scale_by_adam,
)
from experiments.training.paths import leaves_by_path
from experiments.training.quantise import Quantised
from experiments.training.state import (
  abstract_state,
  init_state,
  restore_target,
  state_placements,
  state_shardings,
)
from experiments.training.task import Task

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden" / "adamw_8bit.npz"
D, M = 64, 512
AXES = (
  (r"qkv_kernel$", ("embed", None, "heads", None)),
  (r"up/kernel$", ("embed", "mlp")),
  (r"down/kernel$", ("mlp", "embed")),
  (r"scale$", ()),
)
CFG = OptimConfig(name="adamw_8bit", schedule="constant", warmup_steps=0, peak_lr=1e-3)
OPTIMISER = make_optimiser(CFG, 10)


def init(key):
  shapes = {"up": (2, D, M), "down": (2, M, D)}
  kernels = {n: {"kernel": jax.random.normal(key, s) / 8} for n, s in shapes.items()}
  qkv = jax.random.normal(key, (2, D, 3, 8, 16)) / 8
  layers = {**kernels, "qkv_kernel": qkv, "scale": jnp.ones((2, 3000))}
  return {"params": {"layers": layers}, "model_state": {}}


TASK = Task(init, lambda *_: None, AXES)


def gradient(params, step):
  """Gradients of all sizes, without a model to compile."""
  draw = np.random.default_rng(step)
  levels = np.random.default_rng(0)
  return jax.tree.map(
    lambda p: (draw.standard_normal(p.shape) * 10.0 ** levels.uniform(-5, -1, p.shape)).astype(
      np.float32
    ),
    params,
  )


@functools.cache
def compiled(mesh, task=TASK):
  """(params, opt_state, gradient) -> (params, opt_state), without a model."""

  def one(params, opt_state, grads):
    direction, opt_state = OPTIMISER.direction.update(grads, opt_state, params)
    return apply_direction(params, direction, 1e-3), opt_state

  shardings = state_shardings(task, OPTIMISER, mesh)
  place = (shardings.params, shardings.opt_state)
  jitted = jax.jit(one, in_shardings=(*place, place[0]), out_shardings=place)
  state = abstract_state(task, OPTIMISER)
  return jitted.lower(state.params, state.opt_state, state.params).compile()


def steps(mesh, task=TASK, count=3):
  """(params, opt_state) on the host after some steps."""
  state, run = init_state(task, OPTIMISER, mesh, 0), compiled(mesh, task)
  shardings = state_shardings(task, OPTIMISER, mesh).params
  params, opt_state = state.params, state.opt_state
  for step in range(count):
    params, opt_state = run(params, opt_state, jax.device_put(gradient(params, step), shardings))
  return jax.device_get((params, opt_state))


def one_device():
  return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def alone():
  return steps(one_device())


def test_recorded_steps_of_bitsandbytes_are_met():
  with np.load(GOLDEN) as golden:
    cfg = OptimConfig(
      name="adamw_8bit",
      schedule="constant",
      warmup_steps=0,
      peak_lr=float(golden["lr"]),
      weight_decay=float(golden["weight_decay"]),
    )
    optimiser = make_optimiser(cfg, 3)
    names = ("ragged", "small")
    params = {name: golden[f"step0.{name}"] for name in names}
    state = optimiser.init(params, ())
    update = jax.jit(optimiser.direction.update)
    for step in range(3):
      grads = {name: golden[f"grads.{name}"][step] for name in names}
      direction, state = update(grads, state, params)
      params = apply_direction(params, direction, jnp.float32(cfg.peak_lr))
    for name in names:  # a step is 1e-3
      np.testing.assert_allclose(params[name], golden[f"step3.{name}"], rtol=3e-7, atol=1e-8)
    moments = leaves_by_path(state)
    for ours, theirs in (("mu", "1"), ("nu", "2")):
      codes, absmax, small = (
        next(x for p, x in moments.items() if p.endswith(f"{ours}/{tail}"))
        for tail in ("ragged/codes", "ragged/absmax", "small")
      )
      np.testing.assert_array_equal(codes, golden[f"state{theirs}_3.ragged"])
      np.testing.assert_allclose(absmax, golden[f"absmax{theirs}_3.ragged"], rtol=2e-7)
      np.testing.assert_allclose(small, golden[f"state{theirs}_3.small"], rtol=1e-6, atol=1e-12)


def test_small_arrays_are_plain_adam_to_the_bit():
  adam = scale_by_adam(0.9, 0.999, 1e-8)
  small = {"layers": {"scale": np.ones((2, 4095), np.float32)}}  # layers are counted alone
  ours, plain = in_8_bits(adam), adam
  states = [t.init(small) for t in (ours, plain)]
  for step in range(2):
    grads = gradient(small, step)
    got, states[0] = ours.update(grads, states[0])
    expected, states[1] = plain.update(grads, states[1])
    np.testing.assert_array_equal(got["layers"]["scale"], expected["layers"]["scale"])
  large = in_8_bits(adam).init({"scale": np.ones(4096, np.float32)})
  assert isinstance(large.mu["scale"], Quantised)


def test_moments_start_at_zero():
  state = jax.eval_shape(init, jax.random.key(0))["params"]
  stored = jax.jit(lambda: OPTIMISER.init(jax.tree.map(lambda p: jnp.ones(p.shape), state), AXES))()
  codes = [x for x in jax.tree.leaves(stored) if x.dtype == np.uint8]
  assert len(codes) == 6
  for leaf in jax.tree.leaves(stored):
    np.testing.assert_array_equal(leaf, 0)  # a scale of 0 makes 0 of any code


MESHES = [(2, 2, 2)]  # every axis at once
REST = [(1, 2, 4), (1, 8, 1), (1, 1, 8), (8, 1, 1), (1, 4, 2)]


@pytest.mark.parametrize(
  "layout", [*MESHES, *(pytest.param(x, marks=pytest.mark.slow) for x in REST)]
)
def test_any_layout_gives_the_same_bits_and_moves_nothing(layout, alone):
  mesh = make_mesh(MeshConfig(*layout))
  got = leaves_by_path(steps(mesh))
  for path, leaf in leaves_by_path(alone).items():
    np.testing.assert_array_equal(got[path], leaf, err_msg=path)
  moves = r"= \S+ (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
  assert not re.search(moves, compiled(mesh).as_text())


def test_blocks_that_a_mesh_cuts_are_named_and_computed_all_the_same():
  """72 x 64 has too few factors of two for boxes of its own, so a row is one block."""
  axes = ((r"kernel$", ("embed", "mlp")),)
  draw = lambda key: {"kernel": jax.random.normal(key, (72, 64))}  # noqa: E731
  task = Task(lambda key: {"params": draw(key), "model_state": {}}, lambda *_: None, axes)
  mesh = make_mesh(MeshConfig(1, 1, 8))
  table = leaves_by_path(state_placements(task, abstract_state(task, OPTIMISER), mesh).opt_state)
  (absmax,) = [t for p, t in table.items() if p.endswith("mu/kernel/absmax")]
  assert (absmax.shape, absmax.spec) == ((72, 1), PartitionSpec("fsdp"))
  assert absmax.note == "whole: 8 devices cut its 1 blocks, so their scales move each step"
  got = leaves_by_path(steps(mesh, task))
  for path, leaf in leaves_by_path(steps(one_device(), task)).items():
    np.testing.assert_array_equal(got[path], leaf, err_msg=path)


def test_codes_and_scales_go_where_their_parameter_goes():
  mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
  state = abstract_state(TASK, OPTIMISER)
  table = leaves_by_path(state_placements(TASK, state, mesh).opt_state)
  split = {p.split("mu/layers/")[1]: t for p, t in table.items() if "mu/layers/" in p}
  assert {p: t.spec for p, t in split.items()} == {
    "up/kernel/codes": PartitionSpec(None, "fsdp", "tensor"),
    "up/kernel/absmax": PartitionSpec(None, "fsdp", "tensor"),
    "down/kernel/codes": PartitionSpec(None, "tensor", "fsdp"),
    "down/kernel/absmax": PartitionSpec(None, "tensor", "fsdp"),
    "qkv_kernel/codes": PartitionSpec(None, "fsdp", None, "tensor"),
    "qkv_kernel/absmax": PartitionSpec(None, "fsdp", None, "tensor"),
    "scale": PartitionSpec(),
  }
  up = split["up/kernel/absmax"]
  assert (up.shape, up.dtype, up.bytes_per_device) == ((2, D, 8), "float32", 2 * D * 8 * 4 // 8)
  assert split["up/kernel/codes"].bytes_per_device == 2 * D * M // 8


@pytest.mark.slow
def test_resumes_bit_for_bit_on_another_mesh(tmp_path):
  """Saved by eight devices and read by one: the same codes, and the same next step."""
  eight, one = make_mesh(MeshConfig(2, 2, 2)), one_device()
  state = init_state(TASK, OPTIMISER, eight, 0)
  place = state_shardings(TASK, OPTIMISER, eight).params
  params, opt_state = compiled(eight)(
    state.params, state.opt_state, jax.device_put(gradient(state.params, 0), place)
  )
  state = dataclasses.replace(state, params=params, opt_state=opt_state, step=state.step + 1)
  fields = {"config": {}, "seed": 0, "data": "none", "keep": 1, "keep_best": 0, "may_differ": ()}
  with Checkpoints(tmp_path, **fields) as checkpoints:
    checkpoints.save(state, None, wait=True)
    restored = checkpoints.restore_latest(restore_target(TASK, OPTIMISER, one))
  saved, read = (leaves_by_path(jax.device_get(s)) for s in (state, restored))
  assert saved.keys() == read.keys()
  for path, leaf in saved.items():
    assert leaf.dtype == read[path].dtype, path
    np.testing.assert_array_equal(leaf, read[path], err_msg=path)
  grads = gradient(params, 1)
  run = compiled(one)
  straight = run(*jax.device_put((params, opt_state, grads), jax.devices()[0]))
  resumed = run(restored.params, restored.opt_state, grads)
  for path, leaf in leaves_by_path(jax.device_get(straight)).items():
    np.testing.assert_array_equal(leaf, leaves_by_path(resumed)[path], err_msg=path)


def test_the_largest_model_takes_two_bytes_per_parameter_on_any_mesh():
  task = dasheng_task(SIZES["dasheng_1_2b"])
  state = abstract_state(task, make_optimiser(OptimConfig(name="adamw_8bit"), 100_000))
  count = sum(x.size for x in jax.tree.leaves(state.params))
  stored = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.opt_state))
  assert 2.0 < stored / count < 2.1
  codes = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.dtype == np.uint8)
  assert codes > 2 * 0.999 * count
  for fsdp, tensor in ((256, 1), (32, 8)):
    mesh = imagined_mesh(MeshConfig(1, fsdp, tensor), fsdp * tensor)
    table = leaves_by_path(state_placements(task, state, mesh).opt_state)
    assert not [path for path, row in table.items() if "cut" in row.note]
