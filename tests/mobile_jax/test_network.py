"""Networks as pure functions: how they start, dropout, clip lengths, one batch on many devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dasheng_jax.weights.table import flatten
from mobile_jax.config import DyMNConfig, MNConfig
from mobile_jax.network import infer, init_variables, train_outputs
from tests.mobile_jax.fixtures import drawn, quick, shapes_of, worst


@pytest.mark.parametrize(
  "cfg",
  [
    pytest.param(MNConfig(width=0.4), id="mn", marks=pytest.mark.slow),
    pytest.param(DyMNConfig(width=0.4), id="dymn", marks=pytest.mark.slow),
  ],
)
def test_how_a_network_starts(cfg):
  """Kaiming by fan-out for convolutions, N(0, 0.01) for linear layers, ones and zeros for norms."""
  flat = flatten(quick(functools.partial(init_variables, cfg))(jax.random.key(1)))
  linear = ("/excite/", "/router/", "/coefficients/", "/frequency/", "/time/", "/head/")
  seen = set()
  for path, value in flat.items():
    kind = path.rsplit("/", 1)[1]
    seen.add(kind)
    match kind:
      case "bias" | "mean" | "count":
        assert not np.any(value), path
      case "scale" | "var":
        np.testing.assert_array_equal(value, np.ones_like(value), err_msg=path)
      case "kernel":
        is_linear = any(part in path for part in linear)
        depthwise = path.endswith(("depthwise/kernel", "stem/kernel"))
        fan = value.shape[-1] * (value.shape[-2] ** 2 if depthwise else 1)
        wanted = 0.01 if is_linear else np.sqrt(2 / fan)
        # Five standard errors of a deviation from this many numbers.
        assert float(value.std()) == pytest.approx(wanted, rel=5 / np.sqrt(2 * value.size)), path
        assert abs(float(value.mean())) <= 5 * wanted / np.sqrt(value.size), path
      case _:
        raise AssertionError(path)
  assert seen == {"bias", "mean", "count", "scale", "var", "kernel"}


def test_kernels_differ_by_layer_and_by_key():
  cfg = MNConfig(width=0.1, classes=5)
  make = quick(functools.partial(init_variables, cfg))
  one, other = make(jax.random.key(0))["params"], make(jax.random.key(1))["params"]
  assert (
    worst(one["block_2"]["project"]["kernel"], np.asarray(one["block_3"]["project"]["kernel"]))
    > 0.1
  )
  assert worst(one["stem"]["kernel"], np.asarray(other["stem"]["kernel"])) > 0.1


@pytest.mark.slow
def test_one_global_batch_has_one_set_of_statistics_on_any_mesh():
  """Eight clips on eight devices, one each: outputs and new statistics are those of one device."""
  cfg = MNConfig(width=0.1, classes=5, head="fully_convolutional")
  variables = drawn(shapes_of(cfg), seed=2)
  rng = np.random.default_rng(3)
  # Every clip at a level of its own, so that statistics per device would be far off.
  level = np.arange(8)[:, None, None]
  log_mel = jnp.asarray(rng.normal(size=(8, 64, 40)) * (1 + level) + level, jnp.float32)

  def forward(variables, log_mel):
    outputs, stats = train_outputs(cfg, variables, log_mel, None)
    return outputs.logits, outputs.features, stats

  run = quick(forward)
  alone = run(variables, log_mel)
  mesh = Mesh(np.asarray(jax.devices()), ("data",))
  everywhere = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
  spread = jax.device_put(log_mel, NamedSharding(mesh, PartitionSpec("data")))
  assert len(spread.sharding.device_set) == 8
  shared = run(everywhere, spread)
  for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(shared), strict=True):
    # Networks of random weights amplify rounding, so 1e-4 as for recorded ones; statistics of each
    # device's own would be whole deviations away.
    scale = max(1.0, float(np.abs(one).max()))
    assert worst(other, np.asarray(one)) <= 1e-4 * scale
  before, after = (flatten(tree) for tree in (variables["batch_stats"], shared[2]))
  for path, value in after.items():
    assert np.any(value != before[path]), path


@pytest.mark.slow
def test_dropout_is_drawn_from_the_key_and_off_without_one():
  """Dropout stands behind everything else: statistics and features do not feel it."""
  cfg = MNConfig(width=0.1, classes=5)
  variables = drawn(shapes_of(cfg), seed=2)
  log_mel = jnp.asarray(np.random.default_rng(3).normal(size=(4, 32, 24)), jnp.float32)
  train = quick(lambda key: train_outputs(cfg, variables, log_mel, key))
  one, same, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
  np.testing.assert_array_equal(one[0].logits, same[0].logits)
  assert worst(one[0].logits, np.asarray(other[0].logits)) > 1e-3
  np.testing.assert_array_equal(one[0].features, other[0].features)
  still, _ = quick(lambda: train_outputs(cfg, variables, log_mel, None))()
  hidden = np.asarray(still.hidden)
  logits = hidden @ variables["params"]["head"]["logits"]["kernel"]
  logits = logits + variables["params"]["head"]["logits"]["bias"][None]
  assert worst(still.logits, np.asarray(logits)) <= 1e-5


@pytest.mark.parametrize(
  "cfg",
  [
    pytest.param(MNConfig(width=0.1), id="mn"),
    pytest.param(DyMNConfig(width=0.1), id="dymn", marks=pytest.mark.slow),
  ],
)
def test_any_length_and_batch(cfg):
  """One clip of two frames keeps both axes of logits and features."""
  for batch, frames in ((1, 2), (3, 333)):
    log_mel = jax.ShapeDtypeStruct((batch, 128, frames), jnp.float32)
    out = jax.eval_shape(functools.partial(infer, cfg), shapes_of(cfg), log_mel)
    assert (out.logits.shape, out.features.shape) == ((batch, 527), (batch, 96))
    assert len(out.stages) == 17


@pytest.mark.slow
def test_temperature_of_the_configuration_is_the_default():
  cfg = DyMNConfig(width=0.1, classes=3, dynamic="first", temperature=30.0)
  variables = drawn(shapes_of(cfg), seed=2)
  log_mel = jnp.asarray(np.random.default_rng(3).normal(size=(1, 32, 24)), jnp.float32)
  run = quick(lambda t: infer(cfg, variables, log_mel, temperature=t).logits)
  default = quick(lambda: infer(cfg, variables, log_mel).logits)()
  np.testing.assert_allclose(run(30.0), default, atol=1e-6)
  assert worst(run(1.0), np.asarray(default)) > 1e-4
