"""From waves to tags: the function of `load_model` under JAX's transformations, and its checks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.errors import ConfigError
from mobile_jax.config import MNConfig
from mobile_jax.inference import check_wave, log_mel, tag
from mobile_jax.weights.load import load_model, write_model
from pipelines.kaldi_mel import log_mel_32k
from tests.mobile_jax.fixtures import quick, worst

SAMPLES = 4000  # 13 frames


@pytest.fixture(scope="module")
def wave():
  t = np.arange(SAMPLES) / 32000
  tones = [np.sin(2 * np.pi * f * t) * np.linspace(0.1, 0.5, SAMPLES) for f in (440, 3000)]
  noise = np.random.default_rng(0).normal(0, 0.01, (2, SAMPLES))
  return jnp.asarray(np.stack(tones) + noise, jnp.float32)


@pytest.fixture(scope="module")
def file(recorded, variables_of, tmp_path_factory):
  path = tmp_path_factory.mktemp("tag") / "mn01.safetensors"
  write_model(path, recorded("mn01_c_mlp").cfg, variables_of("mn01_c_mlp"))
  return path


@pytest.fixture(scope="module")
def loaded(file, recorded):
  return load_model(file, config=recorded("mn01_c_mlp").cfg)


@pytest.fixture(scope="module")
def answer(loaded, wave):
  """(logits, features) of the two clips under jit."""
  function, variables = loaded
  return quick(function)(variables, wave)


def test_logits_and_features(answer, inferred, recorded, variables_of, wave):
  """The wave goes through the 32 kHz front end and then through the network."""
  logits, features = answer
  assert (logits.shape, features.shape) == ((2, 20), (2, 96))
  assert (logits.dtype, features.dtype) == (jnp.float32, jnp.float32)
  cfg = recorded("mn01_c_mlp").cfg
  mel = log_mel(cfg, wave)
  assert mel.shape == (2, 128, 13)
  np.testing.assert_array_equal(mel, log_mel_32k(wave, cfg.mel))


@pytest.mark.slow
def test_clips_do_not_feel_each_other(answer, loaded, wave):
  """Under vmap, clip by clip: the same numbers, so nothing passes between the clips."""
  function, variables = loaded
  alone = quick(jax.vmap(function, in_axes=(None, 0)))(variables, wave[:, None])
  for one, other in zip(alone, answer, strict=True):
    assert worst(one[:, 0], np.asarray(other)) <= 1e-4


@pytest.mark.slow
def test_derivatives(loaded, wave, answer):
  """Gradients for the wave and the weights; along a direction they are what forward mode says."""
  function, variables = loaded
  rng = np.random.default_rng(1)
  along = jnp.asarray(rng.normal(0, 1e-3, wave.shape), jnp.float32)

  def score(params, wave):
    logits, features = function({**variables, "params": params}, wave)
    return jnp.sum(jnp.sin(logits)) + jnp.sum(features)

  def both(params, wave):
    value, gradients = jax.value_and_grad(score, argnums=(0, 1))(params, wave)
    _, slope = jax.jvp(lambda w: score(params, w), (wave,), (along,))
    return value, gradients, slope

  value, (of_params, of_wave), slope = quick(both)(variables["params"], wave)
  logits, features = answer
  assert float(value) == pytest.approx(float(jnp.sum(jnp.sin(logits)) + features.sum()), rel=1e-4)
  assert float(slope) == pytest.approx(float(jnp.vdot(of_wave, along)), rel=1e-3)
  assert abs(float(slope)) > 1e-4
  for path, gradient in jax.tree_util.tree_leaves_with_path(of_params):
    assert np.isfinite(gradient).all(), path
    assert np.abs(gradient).max() > 0, path


@pytest.mark.slow
def test_bfloat16_is_close_and_keeps_float32_parameters(file, recorded, wave, answer):
  function, variables = load_model(file, config=recorded("mn01_c_mlp").cfg, dtype="bfloat16")
  assert {x.dtype for x in jax.tree.leaves(variables["params"])} == {np.dtype("float32")}
  logits, features = quick(function)(variables, wave)
  assert (logits.dtype, features.dtype) == (jnp.float32, jnp.float32)
  for ours, exact in ((logits, answer[0]), (features, answer[1])):
    error = np.abs(np.asarray(ours) - np.asarray(exact))
    assert 0 < error.max() < 0.1 * float(jnp.abs(exact).max())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  ("wave", "message"),
  [
    ([[0.0] * 4000], r"wave is a list; expected an array: use jnp.asarray"),
    (np.zeros(4000, np.float32), r"shape \(4000,\); expected \[batch, samples\]: use wave\[None\]"),
    (np.zeros((1, 2, 4000), np.float32), r"shape \(1, 2, 4000\).*average channels to mono"),
    (np.zeros((1, 4000), np.int16), r"wave is int16; expected floats.*divide 16-bit .* by 32768"),
    (np.zeros((1, 513), np.float32), r"too short: at least one clip of 514 samples \(16 ms\)"),
    (np.zeros((0, 4000), np.float32), r"shape \(0, 4000\) is too short: at least one clip"),
  ],
)
def test_waves_that_cannot_be_tagged(wave, message):
  cfg = MNConfig(width=0.1)
  with pytest.raises(ConfigError, match=message) as caught:
    check_wave(cfg, wave)
  assert "\n" not in str(caught.value)
  with pytest.raises(ConfigError, match=message):  # before any variable is looked at
    tag(cfg, {}, wave)


def test_the_shortest_wave():
  cfg = MNConfig(width=0.1)
  assert log_mel(cfg, jnp.zeros((1, 514))).shape == (1, 128, 2)
