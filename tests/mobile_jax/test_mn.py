"""MN against the recorded networks, in inference and in training, map by map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.weights.table import flatten, from_torch
from mobile_jax.config import BlockShape
from mobile_jax.mn import InvertedResidual
from mobile_jax.network import infer
from mobile_jax.weights import names
from tests.mobile_jax.fixtures import MN_NAMES, nhwc, quick, stage_errors, worst
from tests.mobile_jax.recorded_steps import check_gradients, check_optimiser_steps, check_step

TRAINED = (
  "mn01_c_mlp",
  pytest.param("mn01_c_fc", marks=pytest.mark.slow),
  pytest.param("mn01_c_mha4", marks=pytest.mark.slow),
)


@pytest.mark.parametrize(
  "name", [MN_NAMES[0], *(pytest.param(n, marks=pytest.mark.slow) for n in MN_NAMES[1:])]
)
def test_recorded_inference(name, recorded, variables_of):
  """Logits, features and all 17 maps, in the form that runs by default."""
  cfg, _, arrays = recorded(name)
  out = quick(lambda v, x: infer(cfg, v, x))(variables_of(name), recorded(name).log_mel)
  assert worst(out.logits, arrays["logits"]) <= 1e-4
  assert worst(out.features, arrays["features"]) <= 1e-4
  assert max(stage_errors(out.stages, arrays)) <= 1e-4
  assert set(out.squeezed) == ({4, 5, 6, 11, 12, 13, 14, 15} if cfg.squeezed else set())
  assert (out.hidden is None) == (cfg.head != "mlp")


def test_recorded_inference_on_plain_xla(inferred, recorded, variables_of):
  arrays = recorded("mn01_c_mlp").arrays
  out = inferred("mn01_c_mlp", variables_of("mn01_c_mlp"), None)
  assert worst(out.logits, arrays["logits"]) <= 1e-4
  assert worst(out.features, arrays["features"]) <= 1e-4
  assert max(stage_errors(out.stages, arrays)) <= 1e-4


@pytest.mark.parametrize("name", TRAINED)
def test_recorded_training_forward(name, first_step, recorded):
  check_step(first_step(name), recorded(name))


@pytest.mark.parametrize("name", TRAINED)
def test_recorded_gradients(name, first_step, recorded):
  check_gradients(first_step(name), recorded(name))


@pytest.mark.parametrize("optimiser", ["sgd", pytest.param("adam", marks=pytest.mark.slow)])
def test_recorded_optimiser_steps(optimiser, train_step, inferred, recorded, variables_of):
  name = "mn01_c_mlp"
  tools = (train_step, inferred, recorded(name), variables_of(name))
  check_optimiser_steps(name, optimiser, *tools, losses=3e-6)


@pytest.mark.parametrize("name", ["ir_hs_res", "ir_re_s2", "ir_noexp", "ir_dil"])
def test_recorded_block(name, unit):
  recorded = unit(name)
  channels, kernel, expanded, out, se, act, stride, dilation = recorded.cfg["args"]
  activation = {"HS": "hardswish", "RE": "relu"}[act]
  shape = BlockShape(1, channels, kernel, expanded, out, se, activation, stride, dilation)
  module, x = InvertedResidual(shape), nhwc(recorded.inputs["x"])
  target = jax.eval_shape(module.init, jax.random.key(0), x)
  rules = names._mn_block(shape, "block", ())
  tree = {name: {"block_1": value} for name, value in target.items()}
  found = jax.tree.map(jnp.asarray, from_torch(recorded.weights, rules, tree))
  y, _ = module.apply({name: value["block_1"] for name, value in found.items()}, x)
  assert worst(y, recorded.outputs[""].transpose(0, 2, 3, 1)) <= 1e-5


def test_names_of_the_variables(variables_of):
  """Blocks that do not expand have no such convolution (mn01: blocks 1 to 4)."""
  params = variables_of("mn01_c_mlp")["params"]
  assert set(params) == {"stem", "last", "head", *(f"block_{n}" for n in range(1, 16))}
  assert [n for n in range(1, 16) if "expand" not in params[f"block_{n}"]] == [1, 2, 3, 4]
  assert [n for n in range(1, 16) if "excite" in params[f"block_{n}"]] == [
    4,
    5,
    6,
    11,
    12,
    13,
    14,
    15,
  ]
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
  assert all(
    x.dtype == jnp.int32 for p, x in flatten(variables_of("mn01_c_mlp")).items() if "count" in p
  )
