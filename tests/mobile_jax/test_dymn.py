"""DyMN against the recorded networks, in inference at every temperature and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.weights.table import from_torch
from mobile_jax.config import BlockShape, DyMNConfig
from mobile_jax.dymn import DynamicBlock
from mobile_jax.dynamic import relu_constants
from mobile_jax.network import infer
from mobile_jax.weights import names
from tests.mobile_jax.fixtures import DYMN_NAMES, nhwc, quick, stage_errors, worst
from tests.mobile_jax.recorded_steps import check_gradients, check_optimiser_steps, check_step

NAME = "dymn01_all"


@pytest.mark.parametrize(
  "name", [NAME, *(pytest.param(n, marks=pytest.mark.slow) for n in DYMN_NAMES if n != NAME)]
)
def test_recorded_inference(name, recorded, variables_of):
  """Logits, features and all 17 maps, in the form that runs by default."""
  cfg, _, arrays = recorded(name)
  run = quick(lambda v, x, t: infer(cfg, v, x, temperature=t))
  found = {}
  for prefix, temperature in recorded(name).prefixes.items():
    out = run(variables_of(name), recorded(name).log_mel, temperature)
    assert worst(out.logits, arrays[prefix + "logits"]) <= 1e-4
    assert worst(out.features, arrays[prefix + "features"]) <= 1e-4
    assert max(stage_errors(out.stages, arrays, prefix)) <= 1e-4
    found[prefix] = np.asarray(out.logits)
  logits = list(found.values())
  assert len(logits) == (2 if name in DYMN_NAMES[:3] else 1)
  # The temperature is in no weight file; at another one the same weights give other numbers.
  assert all(worst(logits[0], other) > 1e-3 for other in logits[1:])


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 30.0])
def test_recorded_inference_on_plain_xla(temperature, inferred, recorded, variables_of):
  arrays, prefix = recorded(NAME).arrays, f"T{temperature:.0f}/"
  out = inferred(NAME, variables_of(NAME), temperature)
  assert worst(out.logits, arrays[prefix + "logits"]) <= 1e-4
  assert worst(out.features, arrays[prefix + "features"]) <= 1e-4
  assert max(stage_errors(out.stages, arrays, prefix)) <= 1e-4


def test_recorded_training_forward(first_forward, recorded):
  check_step(first_forward(NAME), recorded(NAME))


# The program with gradients compiles for half a minute. JAX derives these; where a derivative is
# our own, the tests of it (fused, norm, ops, native) compare it with the derived one.
@pytest.mark.slow
def test_recorded_gradients(first_step, recorded):
  check_gradients(first_step(NAME), recorded(NAME))


@pytest.mark.parametrize(
  ("optimiser", "losses", "steps"),
  # Of plain SGD the first two: with weights apart by 3e-7 the maxima of Dy-ReLU change sides, and
  # in five of six draws the third loss was 2e-4 away, the sixth 2e-2 to 5e-2.
  [("sgd", 1e-5, 2), ("adam", 4e-4, 6)],
)
@pytest.mark.slow
def test_recorded_optimiser_steps(
  optimiser, losses, steps, train_step, inferred, recorded, variables_of
):
  tools = (train_step, inferred, recorded(NAME), variables_of(NAME))
  check_optimiser_steps(NAME, optimiser, *tools, losses=losses, steps=steps)


@pytest.mark.parametrize("kernels", ["xla", "auto"])
@pytest.mark.parametrize("name", ["dy_hs_res", "dy_re_s2", "dy_noexp"])
def test_recorded_block(name, kernels, unit):
  recorded = unit(name)
  channels, kernel, expanded, out, se, act, stride, dilation = recorded.cfg["args"]
  activation = {"HS": "hardswish", "RE": "relu"}[act]
  shape = BlockShape(1, channels, kernel, expanded, out, se, activation, stride, dilation)
  cfg = DyMNConfig(width=recorded.cfg["width_mult"]).with_compute(kernels=kernels)
  assert cfg.context_size(shape) == recorded.cfg["context_dim"]
  x, temperature = nhwc(recorded.inputs["x"]), recorded.cfg["temperature"]
  module = DynamicBlock(shape, cfg)
  target = jax.eval_shape(module.init, jax.random.key(0), x, 1.0)
  state = {f"layers.0.{key}": value for key, value in recorded.weights.items()}
  constants = (state.pop("layers.0.depth_act.lambdas"), state.pop("layers.0.depth_act.init_v"))
  for one, other in zip(relu_constants(2), constants, strict=True):
    np.testing.assert_array_equal(one, other)
  tree = {key: {"block_1": value} for key, value in target.items()}
  rules = names._dynamic_block(cfg, shape, "layers.0")
  found = jax.tree.map(jnp.asarray, from_torch(state, rules, tree))
  variables = {key: value["block_1"] for key, value in found.items()}
  y = quick(module.apply)(variables, x, temperature)
  assert worst(y, recorded.outputs[""].transpose(0, 2, 3, 1)) <= 1e-5
