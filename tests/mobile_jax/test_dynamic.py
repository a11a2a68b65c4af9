"""The parts of a dynamic block against the recorded units, and the schedule of the temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax.dynamic import Context, DynamicConvNorm, DynamicRelu, relu_constants, temperature_at
from mobile_jax.fused import Folded, Gates, dynamic_relu, expand_depthwise
from mobile_jax.ops import depthwise, pointwise
from tests.mobile_jax.fixtures import golden, nhwc, quick, worst


def linear(weights, name):
  """A PyTorch linear layer or 1x1 convolution as ours."""
  kernel = weights[f"{name}.weight"]
  kernel = kernel.reshape(kernel.shape[:2]).T
  return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(weights[f"{name}.bias"])}


def context_variables(weights):
  joint = jnp.asarray(weights["joint_conv.weight"][:, :, 0, 0].T)
  norm = {k: jnp.asarray(weights[f"joint_norm.{v}"]) for k, v in NORM_PARAMS.items()}
  stats = {k: jnp.asarray(weights[f"joint_norm.{v}"]) for k, v in NORM_STATS.items()}
  return {
    "params": {
      "joint": {"kernel": joint, "norm": norm},
      "frequency": linear(weights, "conv_f"),
      "time": linear(weights, "conv_t"),
    },
    "batch_stats": {"joint": {"norm": {**stats, "count": jnp.int32(0)}}},
  }


NORM_PARAMS = {"scale": "weight", "bias": "bias"}
NORM_STATS = {"mean": "running_mean", "var": "running_var"}


@pytest.mark.parametrize("size", ["13x25", "16x10"])
@pytest.mark.parametrize("stride", [1, 2])
def test_recorded_context(unit, stride, size):
  """Odd and even sizes; at stride 2 the gates fit the strided map, zeros at the ends counted."""
  recorded = unit(f"contextgen_s{stride}_{size}")
  module = Context(6, 8, 10, stride, "both")
  found = module.apply(context_variables(recorded.weights), nhwc(recorded.inputs["x"]))
  assert worst(found.context, recorded.outputs["h_c"][:, :, 0, 0]) <= 2e-6
  by_place = {
    "frequency": recorded.outputs["g_cf"][..., 0],
    "time": recorded.outputs["g_ct"][:, :, 0],
  }
  for name, theirs in by_place.items():
    assert worst(getattr(found, name), theirs.transpose(0, 2, 1)) <= 5e-6


def test_gates_that_are_not_asked_for_have_no_parameters(unit):
  x = nhwc(unit("contextgen_s1_16x10").inputs["x"])
  for axes, names in (("frequency", {"frequency"}), ("time", {"time"}), (None, set())):
    module = Context(6, 8, 10, 1, axes)
    variables = module.init(jax.random.key(0), x)
    assert set(variables["params"]) == {"joint"} | names
    found = module.apply(variables, x)
    assert {n for n in ("frequency", "time") if getattr(found, n) is not None} == names


def test_the_longer_sequence_weighs_more_unless_they_are_concatenated(unit):
  recorded = unit("contextgen_s2_13x25")
  variables, x = context_variables(recorded.weights), nhwc(recorded.inputs["x"])
  joint = Context(6, 8, 10, 2, "both").apply(variables, x).context
  apart = Context(6, 8, 10, 2, "both", "concatenated").apply(variables, x).context
  assert apart.shape == (2, 16)
  weighted = (13 * apart[:, :8] + 25 * apart[:, 8:]) / 38
  assert worst(weighted, np.asarray(joint)) <= 1e-6


def test_separate_sequence_parameters(unit):
  """With the shared parameters copied to both sides, nothing changes."""
  recorded = unit("contextgen_s2_13x25")
  variables, x = context_variables(recorded.weights), nhwc(recorded.inputs["x"])
  twice = {
    name: {
      **{k: v for k, v in tree.items() if k != "joint"},
      **{f"joint_{axis}": tree["joint"] for axis in ("frequency", "time")},
    }
    for name, tree in variables.items()
  }
  shared = Context(6, 8, 10, 2, "both").apply(variables, x)
  separate = Context(6, 8, 10, 2, "both", "separate").apply(twice, x)
  for one, other in zip(shared, separate, strict=True):
    assert worst(one, np.asarray(other)) <= 2e-6


@pytest.mark.parametrize("name", ["dyconv_pw", "dyconv_dw_s2", "dyconv_dw_dil2"])
def test_recorded_dynamic_convolution(unit, name):
  recorded = unit(name)
  cfg, count = recorded.cfg, recorded.cfg["k"]
  size, outputs = cfg["kernel_size"], cfg["out_channels"]
  kernels = recorded.weights["weight"].reshape(count, outputs, -1, size, size)
  kind = "depthwise" if cfg.get("groups") else "pointwise"
  if kind == "pointwise":
    kernels = kernels[..., 0, 0].transpose(0, 2, 1)
  else:
    kernels = kernels[:, :, 0].transpose(0, 2, 3, 1)
  module = DynamicConvNorm(
    kind, cfg["in_channels"], outputs, 8, count, size, cfg.get("stride", 1), cfg.get("dilation", 1)
  )
  variables = {
    "params": {
      "kernel": jnp.asarray(kernels),
      "router": linear(recorded.weights, "residuals.0"),
      "norm": {"scale": jnp.ones(outputs), "bias": jnp.zeros(outputs)},
    },
    "batch_stats": {
      "norm": {"mean": jnp.zeros(outputs), "var": jnp.full(outputs, 1 - 1e-3), "count": 0}
    },
  }
  x, context = nhwc(recorded.inputs["x"]), jnp.asarray(recorded.inputs["h_c"][:, :, 0, 0])
  theirs = recorded.outputs[""].transpose(0, 2, 3, 1)
  plain = module.apply(variables, x, context, cfg["temperature"])
  assert worst(plain, theirs) <= 1e-5
  folded = module.apply(variables, context, cfg["temperature"], method="folded").whole()
  if kind == "pointwise":
    y = pointwise(x, folded.kernel)
  else:
    y = depthwise(x, folded.kernel, module.stride, module.dilation)
  assert worst(y + folded.bias[None, None, None], theirs) <= 1e-5
  # The temperature counts: at another one the same weights give other numbers.
  assert worst(module.apply(variables, x, context, 1.0), theirs) > 1e-3


def test_the_temperature_flattens_the_mixture():
  """Far up the kernels are averaged; near 0 one of them wins."""
  rng = np.random.default_rng(0)
  module = DynamicConvNorm("pointwise", 3, 5, 8, 4)
  context = jnp.asarray(rng.normal(size=(2, 8)), jnp.float32)
  params = module.init(jax.random.key(1), jnp.ones((2, 1, 1, 3)), context, 1.0)
  params = jax.tree.map(lambda a: a + jnp.asarray(rng.normal(size=a.shape), a.dtype), params)
  kernel = np.asarray(params["params"]["kernel"])

  def mixed(temperature):
    return module.apply(params, context, temperature, method="folded")._replace(scale=None)

  flat = mixed(1e6).whole().kernel
  np.testing.assert_allclose(flat, np.broadcast_to(kernel.mean(0), (2, 3, 5)), atol=1e-5)
  router = params["params"]["router"]
  chosen = np.asarray(context @ router["kernel"] + router["bias"][None]).argmax(-1)
  sharp = mixed(1e-4).whole().kernel
  np.testing.assert_allclose(sharp, kernel[chosen], atol=1e-5)


def test_every_kernel_of_the_mixture_starts_kaiming_by_fan_out():
  module = DynamicConvNorm("depthwise", 300, 300, 8, 4, 5)
  x, context = jnp.ones((1, 5, 5, 300)), jnp.ones((1, 8))
  params = quick(module.init)(jax.random.key(0), x, context, 1.0)["params"]
  assert params["kernel"].shape == (4, 5, 5, 300)
  for kernel in params["kernel"]:
    assert float(kernel.std()) == pytest.approx(np.sqrt(2 / (300 * 25)), rel=0.05)
  assert float(params["router"]["kernel"].std()) == pytest.approx(0.01, rel=0.5)
  np.testing.assert_array_equal(params["router"]["bias"], np.zeros(4))


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_recorded_dynamic_relu(unit, pieces):
  recorded = unit(f"dyrelu_M{pieces}")
  reach, start = relu_constants(pieces)
  np.testing.assert_array_equal(reach, recorded.weights["lambdas"])
  np.testing.assert_array_equal(start, recorded.weights["init_v"])
  context = jnp.asarray(recorded.inputs["h_c"][:, :, 0, 0])
  params = {"coefficients": linear(recorded.weights, "coef_net.0")}
  coefficients = DynamicRelu(5, 8, pieces).apply({"params": params}, context)
  x = nhwc(recorded.inputs["x"])
  theirs = recorded.outputs[""].transpose(0, 2, 3, 1)
  assert worst(dynamic_relu(x, coefficients), theirs) <= 1e-6


def test_dynamic_relu_starts_as_relu():
  context = jnp.ones((2, 8))
  variables = DynamicRelu(5, 8, 2).init(jax.random.key(0), jnp.zeros((2, 8)))
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 5)), jnp.float32)
  y = dynamic_relu(x, DynamicRelu(5, 8, 2).apply(variables, context * 0))
  np.testing.assert_allclose(y, jax.nn.relu(x), atol=1e-6)


@pytest.mark.parametrize("kernels", ["xla", "auto"])
def test_recorded_coordinate_attention(unit, kernels):
  recorded = unit("coordatt")
  frequency, time = (
    jax.nn.sigmoid(jnp.asarray(g))
    for g in (
      recorded.inputs["g_cf"][..., 0].transpose(0, 2, 1),
      recorded.inputs["g_ct"][:, :, 0].transpose(0, 2, 1),
    )
  )
  identity = Folded(jnp.ones((1, 1, 5)), jnp.zeros(5))
  y, _ = expand_depthwise(
    nhwc(recorded.inputs["x"]),
    None,
    identity,
    activation="none",
    gates=Gates(None, frequency, time),
    kernels=kernels,
  )
  assert worst(y, recorded.outputs[""].transpose(0, 2, 3, 1)) <= 1e-6


SCHEDULES = {
  "default_init_then_epoch0_44": {},
  "Tmax10_slope.5_T1slope.1_Tmin.2": {
    "start": 10.0,
    "first_slope": 0.5,
    "second_slope": 0.1,
    "end": 0.2,
  },
  "Tmax30_Tmin0_T1slope.02": {"end": 0.0},
  "Tmax1": {"start": 1.0},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_recorded_temperatures(name):
  recorded = golden("mobile_units")[f"temperature/{name}"]
  epochs = jnp.arange(len(recorded) - 1, dtype=jnp.float32)
  ours = jax.vmap(lambda epoch: temperature_at(epoch, **SCHEDULES[name]))(epochs)
  np.testing.assert_allclose(ours, recorded[1:], rtol=1e-6, atol=1e-6)
  # Before the first epoch the original holds its highest temperature.
  assert recorded[0] == pytest.approx(SCHEDULES[name].get("start", 30.0))


def test_the_second_slope_never_matters_by_default():
  assert [float(temperature_at(e)) for e in (0, 1, 28, 29, 30, 200)] == [30, 29, 2, 1, 1, 1]
  assert float(temperature_at(40.0, end=0.0)) == pytest.approx(1 - 0.02 * 11, abs=1e-6)
