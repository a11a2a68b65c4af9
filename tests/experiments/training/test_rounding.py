from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments.training.dasheng_task import encoder_of
from experiments.training.mesh import MeshConfig, make_mesh
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.paths import leaves_by_path
from experiments.training.rounding import narrow, round_like, stochastic_bfloat16, widen
from experiments.training.state import TrainState, abstract_state
from tests.experiments.training import toy
from tests.experiments.training.test_step import assert_same_bits, initial, one, run

CFG = OptimConfig(warmup_steps=2, peak_lr=1e-2, ema=0.9, clip_norm=0.5, params="bfloat16")


def test_rounding_is_right_on_average():
  x = np.float32([1.0, 1.001, -3.1415927, 1e-20, 0.3, 65_000.0])
  many = np.broadcast_to(x[:, None], (len(x), 20_000))
  rounded = np.asarray(jax.jit(stochastic_bfloat16)(many, jax.random.key(0)), np.float64)
  nearest = x.astype(jnp.bfloat16).astype(np.float64)
  step = np.abs(x) * 2.0**-7
  assert np.all(np.abs(rounded - x[:, None]) < step[:, None])
  assert all(len(np.unique(row)) <= 2 for row in rounded)
  # Five standard deviations of the mean of 20,000 draws, of half a step at most.
  np.testing.assert_array_less(np.abs(rounded.mean(axis=1) - x), 5 * step / 2 / np.sqrt(20_000))
  np.testing.assert_array_equal(rounded[0], 1.0)
  assert abs(nearest[1] - x[1]) > 5 * step[1] / 2 / np.sqrt(20_000)  # nearest would fail this


def test_what_is_not_finite_stays_so():
  carries = np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)  # out of a NaN
  x = np.concatenate([np.array([np.inf, -np.inf, np.nan], np.float32), carries])
  many = np.broadcast_to(x[:, None], (5, 64))
  rounded = np.asarray(jax.jit(stochastic_bfloat16)(many, jax.random.key(0)), np.float32)
  np.testing.assert_array_equal(rounded, many)


def test_small_updates_add_up_where_nearest_stagnates():
  """1,000 updates of 1/4096 of the value: to nearest, not one of them is seen."""
  value = jnp.ones(4096, jnp.bfloat16)

  def body(i, carry):
    lost, kept = (x.astype(jnp.float32) - 2.0**-12 for x in carry)
    key = jax.random.fold_in(jax.random.key(0), i)
    return lost.astype(jnp.bfloat16), stochastic_bfloat16(kept, key)

  lost, kept = jax.jit(lambda x: jax.lax.fori_loop(0, 1000, body, (x, x)))(value)
  np.testing.assert_array_equal(np.asarray(lost, np.float32), 1.0)
  np.testing.assert_allclose(np.mean(np.asarray(kept, np.float32)), 1 - 1000 / 4096, atol=2e-3)


def test_kernels_alone_are_narrow():
  state = abstract_state(toy.TASK, make_optimiser(CFG, 10))
  dtypes = {p: str(x.dtype) for p, x in leaves_by_path(state.params).items()}
  kernels = {p for p, d in dtypes.items() if d == "bfloat16"}
  assert kernels == {"blocks/up/kernel", "blocks/down/kernel", "head/kernel"}
  everything_else = jax.tree.leaves((state.opt_state, state.ema))
  assert {str(x.dtype) for x in everything_else} == {"float32", "int32"}


def test_draws_differ_by_path_and_not_by_layout():
  x = {"a": {"kernel": np.full((16, 32), 1.003, np.float32)}}
  x["b"] = {"kernel": x["a"]["kernel"]}
  old, key = narrow(x), jax.random.key(1)
  whole = jax.jit(round_like)(x, old, key)
  assert not np.array_equal(whole["a"]["kernel"], whole["b"]["kernel"])
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  sharding = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
  everywhere = NamedSharding(mesh, PartitionSpec())
  split = jax.jit(
    round_like, in_shardings=(sharding, sharding, everywhere), out_shardings=sharding
  ).lower(x, old, key)
  compiled = split.compile()
  assert "all-gather" not in compiled.as_text()
  assert_same_bits(
    jax.device_get(compiled(*jax.device_put((x, old, key), (sharding, sharding, everywhere)))),
    jax.device_get(whole),
  )


@pytest.mark.slow
def test_a_run_repeats_bit_for_bit():
  states, _ = run(one(), CFG)
  assert str(states[-1].params["head"]["kernel"].dtype) == "bfloat16"
  again, _ = run(one(), CFG)
  assert_same_bits(states[-1], again[-1])


def test_a_bad_batch_changes_nothing():
  states, metrics = run(one(), CFG, poison={1: np.nan})
  assert_same_bits(states[2].params, states[1].params)
  assert_same_bits(states[2].opt_state, states[1].opt_state)
  assert [int(m["skipped"]) for m in metrics] == [0, 1, 1]


def test_masters_stay_in_float32_and_the_model_reads_their_bfloat16():
  states, metrics = run(one(), replace(CFG, params="bfloat16_master"))
  assert {str(x.dtype) for x in jax.tree.leaves(states[-1].params)} == {"float32"}
  finer = np.asarray(states[1].params["head"]["kernel"])
  assert not np.array_equal(finer, finer.astype(jnp.bfloat16).astype(np.float32))
  _, rounded = run(one(), CFG)
  assert metrics[0]["loss"] == rounded[0]["loss"]  # of the same rounded kernels


@pytest.mark.slow
def test_microbatches_are_summed_in_float32():
  cfg = replace(CFG, ema=0.0)
  whole, pieces = (run(one(), replace(cfg, accumulate=a), toy.SMOOTH, steps=1) for a in (1, 4))
  # The gradients of four parts are each rounded to bfloat16, by 2^-9 at most; not their sum.
  norm = [float(metrics[0]["grad_norm"]) for _, metrics in (whole, pieces)]
  np.testing.assert_allclose(*norm, rtol=2.0**-9)
  first, second = (leaves_by_path(states[-1].opt_state) for states, _ in (whole, pieces))
  (path,) = [p for p in first if p.endswith("mu/head/kernel")]
  assert first[path].dtype == second[path].dtype == np.float32
  np.testing.assert_allclose(first[path], second[path], atol=2.0**-8 * np.abs(first[path]).max())


def test_an_exported_encoder_is_float32():
  kernel = np.full((2, 3), 1.5, jnp.bfloat16)
  params = {"encoder": {"blocks": {"layers": {"mlp": {"up": {"kernel": kernel}}}}}}
  state = TrainState(0, params, {"encoder": {}}, (), None, 0, 0)
  (exported,) = jax.tree.leaves(encoder_of(state)["params"])
  assert exported.dtype == np.float32
  np.testing.assert_array_equal(exported, 1.5)


def test_widen_leaves_a_float32_tree_as_it_is():
  tree = initial(replace(CFG, params="float32")).params
  assert widen(tree) is tree
