import pathlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.config import SIZES
from dasheng_jax.mae import init_variables
from experiments.training.errors import UsageError
from experiments.training.optim import (
  OptimConfig,
  apply_direction,
  decay_mask,
  learning_rate,
  make_optimiser,
)
from experiments.training.paths import leaves_by_path

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden" / "optimiser.npz"


@pytest.fixture(scope="module")
def golden():
  with np.load(GOLDEN) as arrays:
    return dict(arrays)


@pytest.mark.parametrize("name", ["small", "full"])
def test_published_schedule_is_met(golden, name):
  peak, final, steps, warmup = golden[f"{name}_args"]
  cfg = OptimConfig(peak_lr=float(peak), final_fraction=float(final), warmup_steps=int(warmup))
  rate = learning_rate(cfg, int(steps))
  expected = golden[f"{name}_lr"]
  step = golden.get(f"{name}_iteration", np.arange(len(expected)))
  np.testing.assert_allclose([rate(int(i)) for i in step], expected, rtol=4e-15)
  np.testing.assert_allclose(rate(step), expected, rtol=4e-15)
  inside = jax.jit(jax.vmap(rate))(jnp.asarray(step, jnp.int32))
  assert inside.dtype == jnp.float32
  np.testing.assert_allclose(inside, expected, rtol=1e-6)


def test_adamw_makes_the_recorded_steps(golden):
  """Gradients and values of torch.optim.AdamW; where there is no gradient, only the decay acts."""
  cfg = OptimConfig(
    peak_lr=float(golden["lr"]),
    weight_decay=float(golden["weight_decay"]),
    beta1=float(golden["betas"][0]),
    beta2=float(golden["betas"][1]),
    eps=float(golden["eps"]),
    schedule="constant",
    warmup_steps=0,
  )
  optimiser = make_optimiser(cfg, steps=3)
  names = [key.removeprefix("step0.") for key in golden if key.startswith("step0.")]
  params = {name: jnp.asarray(golden[f"step0.{name}"]) for name in names}
  update = jax.jit(optimiser.direction.update)
  state = optimiser.direction.init(params)
  for step in range(3):
    zero = {name: np.zeros_like(golden[f"step0.{name}"]) for name in names}
    grads = {name: golden.get(f"grad{step + 1}.{name}", zero[name]) for name in names}
    direction, state = update(grads, state, params)
    params = apply_direction(params, direction, optimiser.rate(jnp.int32(step)))
    for name in names:
      expected = golden.get(f"step{step + 1}.{name}")
      if expected is not None:  # within three roundings of the value; a step is 1e-3
        np.testing.assert_allclose(params[name], expected, rtol=3e-7, atol=3e-8, err_msg=name)


@pytest.mark.parametrize(
  ("schedule", "expected"),
  [
    ("cosine", [0.5, 1.0, 0.1 + 0.9 * 0.75, 0.1 + 0.9 * 0.25, 0.1]),
    ("linear", [0.5, 1.0, 0.7, 0.4, 0.1]),
    ("constant", [0.5, 1.0, 1.0, 1.0, 1.0]),
  ],
)
def test_plain_schedules(schedule, expected):
  cfg = OptimConfig(peak_lr=2.0, schedule=schedule, warmup_steps=2)
  np.testing.assert_allclose(learning_rate(cfg, 5)(np.arange(5)), 2 * np.array(expected), rtol=1e-6)


@pytest.mark.parametrize("schedule", ["dasheng", "cosine", "linear", "constant"])
def test_schedules_without_warmup_start_at_the_peak(schedule):
  rate = learning_rate(OptimConfig(schedule=schedule, warmup_steps=0), 1000)
  np.testing.assert_allclose(rate(0), 3e-4, rtol=1e-3)
  assert np.all(np.isfinite(rate(np.arange(1000))))


PARAMS = {
  "encoder": {
    "blocks": {
      "attn": {"query": {"kernel": jnp.ones((2, 4, 4)), "bias": jnp.ones((2, 4))}},
      "attn_norm": {"scale": jnp.ones((2, 4)), "bias": jnp.ones((2, 4))},
    },
    "time_pos_embed": jnp.ones((9, 4)),
  },
  "mask_token": jnp.ones((4,)),
}


def test_decay_tables():
  assert all(jax.tree.leaves(decay_mask(OptimConfig(), PARAMS)))
  mask = decay_mask(OptimConfig(decay="matrices"), PARAMS)
  assert mask["encoder"]["blocks"]["attn"]["query"] == {"kernel": True, "bias": False}
  assert sum(jax.tree.leaves(mask)) == 1
  with pytest.raises(UsageError, match="decay table 'matrices' matches gamma"):
    decay_mask(OptimConfig(decay="matrices"), {"gamma": jnp.ones(3)})


def test_decay_acts_where_the_table_says():
  cfg = OptimConfig(decay="matrices", weight_decay=0.5)
  optimiser = make_optimiser(replace(cfg, warmup_steps=0), steps=2)
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  direction, _ = optimiser.direction.update(zeros, optimiser.direction.init(PARAMS), PARAMS)
  query = direction["encoder"]["blocks"]["attn"]["query"]
  np.testing.assert_array_equal(query["kernel"], np.full((2, 4, 4), 0.5))
  np.testing.assert_array_equal(query["bias"], np.zeros((2, 4)))
  np.testing.assert_array_equal(direction["mask_token"], np.zeros(4))


def test_a_coupled_decay_goes_through_adam():
  """As torch.optim.Adam: the gradient is g + decay * parameter, in both moments. In float64."""
  cfg = OptimConfig(
    peak_lr=0.01, schedule="constant", warmup_steps=0, weight_decay=0.3, coupled_decay=True
  )
  optimiser = make_optimiser(cfg, steps=4)
  grads = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
  start = np.linspace(-1, 1, 5, dtype=np.float32)
  params, state = {"kernel": jnp.asarray(start)}, optimiser.direction.init({"kernel": start})
  p, m, v = start.astype(np.float64), np.zeros(5), np.zeros(5)
  for t, grad in enumerate(grads, start=1):
    direction, state = optimiser.direction.update({"kernel": grad}, state, params)
    params = apply_direction(params, direction, optimiser.rate(jnp.int32(t - 1)))
    g = grad + 0.3 * p
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    p = p - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(params["kernel"], p, rtol=3e-7, atol=3e-8)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"name": "adam8"}, "optim.name='adam8' is not one of adamw"),
    ({"schedule": "step"}, "optim.schedule='step' is not one of dasheng, cosine"),
    ({"decay": "none"}, "optim.decay='none' is not one of everything, matrices"),
    ({"peak_lr": -1.0}, "optim.peak_lr=-1.0 must be finite, and at least 0"),
    ({"peak_lr": float("inf")}, "optim.peak_lr=inf must be finite"),
    ({"peak_lr": float("nan")}, "optim.peak_lr=nan"),
    ({"beta2": 1.0}, "optim.beta2=1.0 must be at least 0 and below 1"),
    ({"ema": 1.0}, "optim.ema=1.0"),
    ({"accumulate": 0}, "optim.accumulate=0"),
    ({"final_fraction": 1.5}, "optim.final_fraction=1.5"),
  ],
)
def test_bad_fields_are_refused(fields, message):
  with pytest.raises(UsageError, match=message):
    OptimConfig(**fields)


@pytest.mark.parametrize("name", ["dasheng_base", "dasheng_micro"])
def test_decay_of_matrices_alone_in_dasheng(name):
  shapes = jax.eval_shape(lambda: init_variables(SIZES[name], jax.random.key(0)))["params"]
  mask = leaves_by_path(decay_mask(OptimConfig(decay="matrices"), shapes))
  assert {p.rsplit("/", 1)[-1] for p, on in mask.items() if on} == {
    "kernel",
    "qkv_kernel",
    "out_kernel",
  }
  off = {p.rsplit("/", 1)[-1] for p, on in mask.items() if not on}
  assert {"bias", "qkv_bias", "scale", "time", "freq", "mask_token", "pos_embed"} <= off


def test_warmup_longer_than_the_run_is_refused():
  with pytest.raises(
    UsageError, match=r"optim.warmup_steps=45000 is longer than the run \(10 steps\)"
  ):
    make_optimiser(OptimConfig(), steps=10)
  with pytest.raises(UsageError, match="--loop.steps 0"):
    make_optimiser(OptimConfig(), steps=0)
