import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from experiments.training.errors import UsageError
from experiments.training.mesh import MeshConfig, make_mesh
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.paths import leaves_by_path
from experiments.training.state import (
  abstract_state,
  init_state,
  state_placements,
  state_shardings,
)
from experiments.training.task import Task
from tests.experiments.training import toy

OPTIMISER = make_optimiser(OptimConfig(warmup_steps=1, ema=0.9, clip_norm=1.0), steps=10)


def test_moments_and_average_go_where_their_parameter_goes():
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  table = leaves_by_path(state_placements(toy.TASK, abstract_state(toy.TASK, OPTIMISER), mesh))
  split = {path: p.spec for path, p in table.items() if p.spec != PartitionSpec()}
  assert {p for path, p in split.items() if path.endswith("up/kernel")} == {
    PartitionSpec(None, "fsdp", "tensor")
  }
  assert sum(path.endswith("blocks/up/kernel") for path in split) == 4  # params, mu, nu, ema
  assert table["model_state/norm/mean"].spec == PartitionSpec()
  assert table["step"].spec == PartitionSpec()


def test_state_is_born_sharded_and_equal_on_any_mesh():
  one = init_state(toy.TASK, OPTIMISER, make_mesh(devices=jax.devices()[:1]), seed=3)
  mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
  eight = init_state(toy.TASK, OPTIMISER, mesh, seed=3)
  shardings = leaves_by_path(state_shardings(toy.TASK, OPTIMISER, mesh))
  for path, leaf in leaves_by_path(eight).items():
    assert leaf.sharding == shardings[path], path
    np.testing.assert_allclose(leaf, leaves_by_path(one)[path], rtol=1e-6, err_msg=path)
  up = eight.params["blocks"]["up"]["kernel"]
  assert {s.data.shape for s in up.addressable_shards} == {(toy.LAYERS, toy.D // 4, toy.M // 2)}
  other = init_state(toy.TASK, OPTIMISER, mesh, seed=4)
  assert not np.array_equal(up, other.params["blocks"]["up"]["kernel"])


def test_options_that_are_off_take_no_memory():
  plain = make_optimiser(OptimConfig(warmup_steps=1), steps=10)
  assert abstract_state(toy.TASK, plain).ema is None


def test_abstract_state_allocates_nothing():
  def init(key):
    big = jax.random.normal(key, (400, 100_000, 100_000))  # 16 TB
    return {"params": {"w": {"kernel": big}}, "model_state": {}}

  task = Task(init, lambda *_: None, ((r"kernel$", ("embed", "mlp")),))
  state = abstract_state(task, OPTIMISER)
  assert state.params["w"]["kernel"].shape == (400, 100_000, 100_000)
  table = state_placements(task, state, make_mesh(MeshConfig(data=1, fsdp=4, tensor=2)))
  assert table.params["w"]["kernel"].bytes_per_device == 400 * 100_000 * 100_000 * 4 // 8


def test_a_parameter_without_a_rule_is_refused():
  task = Task(toy.init, toy.loss, toy.PARAM_AXES[:-1])
  with pytest.raises(UsageError, match="mask_token"):
    state_shardings(task, OPTIMISER, make_mesh())
