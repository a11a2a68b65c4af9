"""The guarded update in place, on one CPU device, against the same by XLA."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax import native
from experiments.training import update
from experiments.training.mesh import make_mesh
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.rounding import narrow
from experiments.training.state import TrainState, init_state
from experiments.training.step import compile_train_step
from tests.experiments.training import toy

# A scalar, less than a vector, one chunk and a part, several; those named bias do not decay.
SHAPES = {"a": {"bias": (), "kernel": (7,)}, "b": {"kernel": (16, 4097), "bias": (70_003,)}}
CFG = OptimConfig(weight_decay=0.1, decay="matrices", ema=0.9, warmup_steps=2)

NAMES = [field.name for field in dataclasses.fields(update.Updated)]


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch):
  if not native.available():
    pytest.skip("needs the native kernels: a CPU backend and a C++17 compiler")
  monkeypatch.setattr(update, "LEAST_PARAMETERS", 1)


def tree(seed, scale=1.0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: (scale * rng.normal(size=shape)).astype(np.float32),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
  )


@cache
def compiled(way, cfg):
  optimiser = make_optimiser(cfg, 100)

  def one(state, grads, sound):
    lr = jnp.float32(1e-2)
    done = getattr(update, way)(optimiser, state, grads, lr, sound, jax.random.key(0))
    # In the order of the state: by that, arrays find the memory of those they replace.
    return {i: getattr(done, name) for i, name in enumerate(NAMES)}

  return jax.jit(one, donate_argnums=0)


def run(way, cfg=CFG, steps=3, poison=None, sound=True, start=None):
  """What is left after some steps, as NumPy arrays."""
  params = tree(0)
  opt_state = make_optimiser(cfg, 100).init(params, ())
  state = start or {"params": params, "opt_state": opt_state, "ema": tree(0) if cfg.ema else None}
  for i in range(steps):
    grads = tree(10 + i, 0.1)
    if poison is not None:
      grads["b"]["bias"][69_999] = poison
    whole = TrainState(
      step=0, model_state={}, skipped=0, skipped_in_row=0,
      **{name: jax.tree.map(jnp.array, state[name]) for name in ("params", "opt_state", "ema")},
    )  # fmt: skip
    done = jax.device_get(compiled(way, cfg)(whole, grads, sound))
    state = {name: done[i] for i, name in enumerate(NAMES)}
  return state


def test_large_models_on_one_cpu_take_it():
  optimiser = make_optimiser(CFG, 100)
  assert update._takes_in_place(optimiser, tree(0), tree(1))
  for other in ({"clip_norm": 1.0}, {"name": "adamw_8bit"}):
    unfit = make_optimiser(dataclasses.replace(CFG, **other), 100)
    assert not update._takes_in_place(unfit, tree(0), tree(1))
  by_xla = dataclasses.replace(optimiser, kernels="xla")
  assert not update._takes_in_place(by_xla, tree(0), tree(1))
  assert not update._takes_in_place(optimiser, narrow(tree(0)), tree(1))
  update.LEAST_PARAMETERS = 1 << 20  # the fixture puts it back
  assert not update._takes_in_place(optimiser, tree(0), tree(1))


@pytest.mark.parametrize(
  "cfg", [CFG, dataclasses.replace(CFG, ema=0.0, decay="everything", beta1=0.0)]
)
def test_as_by_xla(cfg):
  got, want = run("_in_place", cfg), run("_by_xla", cfg)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  assert got["good"]
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert one.dtype == other.dtype
    # Steps are 1e-2 long: some roundings of these, and of parameters around 1.
    np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("beta2", [0.0, 0.999])
def test_lanes_behind_the_end_take_no_part(beta2):
  """There the update is 0 / 0."""
  cfg = dataclasses.replace(CFG, eps=0.0, beta2=beta2)
  got = run("_in_place", cfg, steps=1)
  assert got["good"]
  assert np.isfinite(got["param_norm"])


@pytest.mark.parametrize(
  ("poison", "sound"),
  [(np.nan, True), (np.inf, True), (1e30, True), (None, False)],
  ids=["nan", "infinity", "its square overflows", "unsound"],
)
def test_a_refused_update_leaves_every_bit(poison, sound):
  before = run("_in_place")
  after = run("_in_place", steps=1, poison=poison, sound=sound, start=before)
  assert not after["good"]
  for name in ("params", "opt_state", "ema", "param_norm"):
    for one, other in zip(jax.tree.leaves(after[name]), jax.tree.leaves(before[name]), strict=True):
      if name == "param_norm":  # summed together with what the update would have given
        np.testing.assert_allclose(one, other, rtol=1e-6)
      else:
        assert one.tobytes() == other.tobytes()


def test_an_update_that_overflows_is_refused():
  before = run("_in_place", steps=1)
  before["params"]["b"]["kernel"] = np.full((16, 4097), 3e38, np.float32)  # squares overflow
  assert not run("_in_place", steps=1, start=before)["good"]


def test_nothing_is_copied():
  """Donated arrays are changed where they are."""
  cfg = dataclasses.replace(CFG, ema=0.0)
  params = tree(0)
  state = TrainState(
    step=0, params=params, model_state={}, opt_state=make_optimiser(cfg, 100).init(params, ()),
    ema=None, skipped=0, skipped_in_row=0,
  )  # fmt: skip
  program = compiled("_in_place", cfg).lower(state, tree(1), True).compile().as_text()
  assert program.count("dasheng_adamw") >= 8
  large = [x for x in program.splitlines() if " copy(" in x and ("70003" in x or "4097" in x)]
  assert not large, large


def test_a_training_step_takes_it():
  """The whole step: counters, guard and numbers are those of XLA, and the state's arrays stay."""
  mesh = make_mesh(devices=jax.devices()[:1])
  states = {}
  for kernels in ("auto", "xla"):
    optimiser = make_optimiser(CFG, 10, kernels)
    step = compile_train_step(toy.TASK, optimiser, mesh, 0)
    state = init_state(toy.TASK, optimiser, mesh, 0)
    with jax.set_mesh(mesh):
      text = step.lower(state, toy.batch(0)).compile().as_text()
      for i in range(3):
        batch = toy.batch(i)
        if i == 1:
          batch["wave"][3, 2] = np.nan
        state, metrics = step(state, batch)
    states[kernels] = jax.device_get((state, metrics))
    assert ("dasheng_adamw_sums" in text) == (kernels == "auto")
  assert states["auto"][0].skipped == 1
  for one, other in zip(*(jax.tree.leaves(states[k]) for k in states), strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-6, atol=5e-7)


def test_elsewhere_the_same_operations_stand_for_it():
  numbers = native.adamw_numbers(
    rate=jnp.float32(1e-2), corrections=(jnp.float32(0.1), jnp.float32(0.001)), beta1=0.9,
    beta2=0.999, eps=1e-8, decay=0.1, good=True,
  )  # fmt: skip
  arrays = [jnp.asarray(tree(i)["b"]["bias"]) ** (2 if i == 2 else 1) for i in range(4)]
  for name in ("adamw", "adamw_sums"):
    function = jax.jit(getattr(native, name))
    stored = jax.export.deserialize(jax.export.export(function)(numbers, *arrays).serialize())
    assert "custom_call" not in stored.mlir_module()
    for one, other in zip(
      jax.tree.leaves(function(numbers, *arrays)),
      jax.tree.leaves(stored.call(numbers, *arrays)),
      strict=True,
    ):
      np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-6)
