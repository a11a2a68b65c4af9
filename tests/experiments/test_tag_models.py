"""A small network with random weights: from its file to probabilities, exact for any length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.embedding.mobile import with_reflected_end
from experiments.tagging.models import Member, open_tagger
from experiments.training.errors import UsageError
from mobile_jax.config import MNConfig
from mobile_jax.decision_config import MobileNetV2Config
from mobile_jax.inference import alone, log_mel
from mobile_jax.network import shapes
from mobile_jax.weights.load import write_model
from tests.experiments.tag_models import noise

# The kernels in C++ would be compiled first; they are tested where they live.
SMALL = MNConfig(width=0.1, classes=20).with_compute(kernels="xla")
SAMPLES = 9_000


@pytest.fixture(scope="module")
def variables():
  """Arrays that are no initial ones, of a size that lets signals through."""
  draw = np.random.default_rng(0)

  def array(x):
    spread = np.sqrt(2 / max(1, np.prod(x.shape[:-1])))
    drawn = draw.normal(0, spread, x.shape) if len(x.shape) > 1 else draw.uniform(0.5, 1.5, x.shape)
    return drawn.astype(x.dtype)

  return jax.tree.map(array, shapes(SMALL))


@pytest.fixture(scope="module", autouse=True)
def compiled_in_a_hurry():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
def test_clips_of_equally_many_frames_share_an_exact_program(variables):
  # Of another window, so that the clip goes by its number of frames.
  shared = Member(SMALL, variables, window=2 * SAMPLES)
  plain = Member(SMALL, variables, window=SAMPLES)
  wave = noise(SAMPLES / 32_000).T
  wanted = plain.logits(wave)
  assert np.ptp(wanted) > 0.01
  np.testing.assert_allclose(shared.logits(wave), wanted, atol=1e-4 * np.abs(wanted).max())
  for samples in range(SAMPLES - 400, SAMPLES + 400, 50):
    if SMALL.mel.frames(samples) == SMALL.mel.frames(SAMPLES):
      assert np.isfinite(shared.logits(noise(samples / 32_000).T)).all()
  assert len(shared._programs) == 1


@pytest.mark.parametrize("samples", [9_000, 9_120, 9_119])
def test_a_clip_goes_on_without_pre_emphasis_too(samples):
  """The log-mel in dB of a longer wave begins with that of the clip, clamp included."""
  cfg = alone(MobileNetV2Config())
  wave = noise(samples / 32_000)[:, 0]
  wave[2_000:6_000] *= 1e-9  # silence, of which the clamp makes something
  frames = cfg.mel.frames(samples)
  longer = with_reflected_end(wave, cfg.mel)
  assert len(longer) == frames * cfg.mel.hop_length + cfg.mel.n_fft // 2
  again = log_mel(cfg, jnp.asarray(longer[None]), frames)
  np.testing.assert_allclose(again, log_mel(cfg, jnp.asarray(wave[None])), atol=1e-3)


@pytest.mark.slow
@pytest.mark.torch
def test_weights_of_one_ensemble_must_fit_each_other(variables, tmp_path):
  first, second = tmp_path / "mn01_as_mAP_298.pt", tmp_path / "other.safetensors"
  write_model(first, SMALL, variables)
  write_model(second, SMALL, variables)
  tagger, files = open_tagger([str(tmp_path), str(second)], ["mn01_as"], 10.0)
  assert files == [first, second]
  assert (tagger.rate, tagger.classes, len(tagger.members)) == (32_000, 20, 2)
  other = MNConfig(width=0.1, classes=3)
  write_model(second, other, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes(other)))
  with pytest.raises(UsageError, match=r"one of these numbers of classes: \[3, 20\]"):
    open_tagger([str(first), str(second)], ["mn01_as", "mn01"], 10.0)
