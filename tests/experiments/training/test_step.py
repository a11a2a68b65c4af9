import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training.keys import stream_key
from experiments.training.mesh import MeshConfig, batch_sharding, make_mesh
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.paths import leaves_by_path
from experiments.training.state import init_state, state_shardings
from experiments.training.step import compile_eval_step, compile_train_step
from tests.experiments.training import toy

BASE = OptimConfig(warmup_steps=2, peak_lr=1e-2, ema=0.9, clip_norm=0.5, weight_decay=0.1)


@cache
def compiled(mesh, cfg, task, seed):
  return compile_train_step(task, make_optimiser(cfg, steps=10), mesh, seed)


@cache
def initial(cfg):
  return jax.device_get(init_state(toy.TASK, make_optimiser(cfg, steps=10), one(), 0))


def run(mesh, cfg=BASE, task=toy.TASK, steps=3, poison=(), seed=0, valid=None):
  """Host copies of the states after each step, and the metrics."""
  step_fn = compiled(mesh, cfg, task, seed)
  first = initial(dataclasses.replace(cfg, accumulate=1))
  state = jax.device_put(first, state_shardings(task, make_optimiser(cfg, steps=10), mesh))
  states, metrics = [first], []
  with jax.set_mesh(mesh):
    for i in range(steps):
      batch = toy.batch(i)
      if i in poison:
        batch["wave"][3, 2] = poison[i]
      if valid is not None:
        batch["valid"] = valid
      state, m = step_fn(state, jax.device_put(batch, batch_sharding(mesh)))
      states.append(jax.device_get(state))
      metrics.append(jax.device_get(m))
  assert step_fn.program._cache_size() == 1  # every step runs the same executable
  return states, metrics


def one():
  return make_mesh(devices=jax.devices()[:1])


def assert_close(a, b, tolerance):
  b = leaves_by_path(b)
  for path, leaf in leaves_by_path(a).items():
    np.testing.assert_allclose(leaf, b[path], rtol=tolerance, atol=tolerance, err_msg=path)


def assert_same_bits(a, b):
  b = leaves_by_path(b)
  for path, leaf in leaves_by_path(a).items():
    assert np.asarray(leaf).tobytes() == np.asarray(b[path]).tobytes(), path


@pytest.fixture(scope="module")
def reference():
  return {a: run(one(), dataclasses.replace(BASE, accumulate=a)) for a in (1, 2)}


LAYOUTS = [(1, 1, 8), (2, 2, 2)]
REST = [(8, 1, 1), (1, 8, 1), (4, 2, 1), (4, 1, 2), (2, 4, 1), (2, 1, 4), (1, 4, 2), (1, 2, 4)]


@pytest.mark.parametrize(
  "layout", [*LAYOUTS, *(pytest.param(x, marks=pytest.mark.slow) for x in REST)]
)
def test_every_layout_trains_alike(layout, reference):
  mesh = make_mesh(MeshConfig(*layout))
  for accumulate in (1, 2) if layout == (2, 2, 2) else (2,):
    states, metrics = reference[accumulate]
    got_states, got_metrics = run(mesh, dataclasses.replace(BASE, accumulate=accumulate))
    assert_close(got_states[-1], states[-1], 1e-5)
    assert_close(got_metrics, metrics, 1e-5)


def test_training_learns_and_reports(reference):
  states, metrics = reference[1]
  assert not np.array_equal(states[-1].params["head"]["kernel"], states[0].params["head"]["kernel"])
  assert [s.step for s in states] == [0, 1, 2, 3]
  rate = make_optimiser(BASE, steps=10).rate
  np.testing.assert_allclose([m["lr"] for m in metrics], rate(np.arange(3)), rtol=1e-6)
  norm = np.sqrt(sum(np.sum(x.astype(np.float64) ** 2) for x in jax.tree.leaves(states[-1].params)))
  np.testing.assert_allclose(metrics[-1]["param_norm"], norm, rtol=1e-6)
  assert set(metrics[0]) >= {"loss", "grad_norm", "lr", "param_norm", "skipped", "draw"}
  _, long = run(one(), steps=10)
  assert long[-1]["loss"] < 0.8 * long[0]["loss"]


def test_keys_depend_on_seed_stream_and_step_alone():
  draw = lambda *args: float(jax.random.uniform(stream_key(*args)))  # noqa: E731
  assert draw(0, "mask", 5) == draw(0, "mask", jnp.int32(5))
  assert len({draw(0, "mask", 5), draw(0, "mask", 6), draw(0, "eval", 5), draw(1, "mask", 5)}) == 4


def test_draws_differ_from_step_to_step_and_repeat_in_a_new_run(reference):
  draws = [float(m["draw"]) for m in reference[1][1]]
  assert len(set(draws)) == 3
  assert [float(m["draw"]) for m in run(one())[1]] == draws


def test_accumulation_is_the_whole_batch_in_pieces():
  plain, pieces = (run(one(), dataclasses.replace(BASE, accumulate=a), toy.SMOOTH) for a in (1, 4))
  assert_close(plain[0][-1].params, pieces[0][-1].params, 1e-6)
  assert_close(plain[1][-1]["loss"], pieces[1][-1]["loss"], 1e-6)


@pytest.mark.parametrize("second", [1, 0])
def test_accumulation_weighs_each_part_with_what_it_counts(second):
  # Rows 0, 2, ... are the first part and hold nearly all that counts.
  valid = np.where(np.arange(toy.ROWS) % 2, 0, 9).astype(np.int32)
  valid[5] = second
  plain, pieces = (
    run(one(), dataclasses.replace(BASE, accumulate=a), toy.SMOOTH, seed=1, valid=valid)
    for a in (1, 2)
  )
  assert_close(plain[0][-1].params, pieces[0][-1].params, 1e-6)
  for name in ("loss", "grad_norm"):
    np.testing.assert_allclose(
      [m[name] for m in plain[1]], [m[name] for m in pieces[1]], rtol=1e-5, err_msg=name
    )
  assert "counted" not in pieces[1][0]


def test_accumulation_threads_the_statistics(reference):
  states, _ = reference[2]
  x = toy.batch(0)["wave"]
  mean = np.zeros(toy.D)
  for part in (x[0::2], x[1::2]):
    mean = 0.9 * mean + 0.1 * part.mean(0)
  np.testing.assert_allclose(states[1].model_state["norm"]["mean"], mean, rtol=1e-5)


def test_average_follows_the_parameters(reference):
  states, _ = reference[1]
  ema = states[0].params["head"]["kernel"]
  for state in states[1:]:
    ema = 0.9 * ema + 0.1 * state.params["head"]["kernel"]
  np.testing.assert_allclose(states[-1].ema["head"]["kernel"], ema, rtol=1e-5)


def test_clipping_bounds_the_first_moment(reference):
  states, metrics = reference[1]
  mu = [x for path, x in leaves_by_path(states[1].opt_state).items() if "/mu/" in f"/{path}"]
  norm = np.sqrt(sum(np.sum(np.square(x)) for x in mu))
  np.testing.assert_allclose(norm, 0.1 * BASE.clip_norm, rtol=1e-5)
  assert metrics[0]["grad_norm"] > 2 * BASE.clip_norm


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_bad_batch_changes_nothing_but_the_counters(accumulate, bad):
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  cfg = dataclasses.replace(BASE, accumulate=accumulate)
  states, metrics = run(mesh, cfg, steps=4, poison={1: bad, 2: bad})
  for field in ("params", "model_state", "opt_state", "ema"):
    assert_same_bits(getattr(states[1], field), getattr(states[3], field))
  assert [int(s.step) for s in states] == [0, 1, 2, 3, 4]
  assert [int(m["skipped"]) for m in metrics] == [0, 1, 2, 2]
  assert [int(m["skipped_in_row"]) for m in metrics] == [0, 1, 2, 0]
  assert np.isfinite(metrics[3]["loss"])
  assert not np.array_equal(states[3].params["norm"]["bias"], states[4].params["norm"]["bias"])


def test_an_update_that_is_not_finite_changes_nothing():
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  states, metrics = run(mesh, dataclasses.replace(BASE, peak_lr=1e38, weight_decay=1e38), steps=2)
  assert np.isfinite(metrics[1]["grad_norm"])
  assert int(metrics[1]["skipped"]) >= 1
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(states[2].params))


def test_evaluation_repeats_itself_and_leaves_padding_out():
  mesh = make_mesh(MeshConfig(data=4, fsdp=2))
  optimiser = make_optimiser(BASE, steps=10)
  state = init_state(toy.TASK, optimiser, mesh, 0)
  evaluate = compile_eval_step(toy.TASK, optimiser, mesh, 0)
  average = compile_eval_step(toy.TASK, optimiser, mesh, 0, use_ema=True)
  batch = toy.batch(0)
  full = jax.device_put({**batch, "mask": np.ones(toy.ROWS, bool)}, batch_sharding(mesh))
  changed = {k: v.copy() for k, v in batch.items()}
  changed["wave"][10:] = 99.0
  part = jax.device_put({**changed, "mask": np.arange(toy.ROWS) < 10}, batch_sharding(mesh))
  same = jax.device_put({**batch, "mask": np.arange(toy.ROWS) < 10}, batch_sharding(mesh))
  with jax.set_mesh(mesh):
    first, again = evaluate(state, full, 0), evaluate(state, full, 0)
    assert first["loss"] == again["loss"]
    assert first["loss"] != evaluate(state, full, 1)["loss"]
    assert first["loss"] == average(state, full, 0)["loss"]  # before any step they are equal
    assert first["rows"] == toy.ROWS
    assert evaluate(state, part, 0)["rows"] == 10
    assert evaluate(state, part, 0)["loss"] == evaluate(state, same, 0)["loss"]
    plain = jax.device_put(batch, batch_sharding(mesh))
    np.testing.assert_allclose(evaluate(state, plain, 0)["loss"], first["loss"], rtol=1e-6)
    assert evaluate(state, plain, 0)["rows"] == toy.ROWS


def test_seeds_share_a_program():
  """The seed is an argument: what is compiled knows nothing of it."""
  given = initial(BASE), toy.batch(0)
  with jax.set_mesh(one()):
    texts = {compiled(one(), BASE, toy.TASK, seed).lower(*given).as_text() for seed in (0, 7)}
  assert len(texts) == 1
