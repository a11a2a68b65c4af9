"""Embeddings over time: their number, their mean, and that company and passes change nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mobile_jax
from dasheng_jax.errors import ConfigError
from experiments.embedding.frames import Grid, MobileFrames, grid_of, in_steps, parts_over_time
from experiments.embedding.load import HOP_SECONDS, WINDOW_SECONDS, mobile_embedder
from experiments.embedding.steps import StepEmbedder
from experiments.evaluation import encoders
from experiments.training.errors import UsageError
from experiments.xares.load import DashengFrames
from mobile_jax.decision_config import EfficientNetConfig, MobileNetV2Config
from mobile_jax.inference import log_mel
from mobile_jax.network import infer, shapes
from mobile_jax.passt_config import PaSSTConfig
from mobile_jax.scene_config import CPMobileConfig, CPResNetConfig
from pipelines.errors import BadAudio
from tests.experiments.embed_models import DASHENG, DYMN, MN, dasheng, drawn, mobile, noise
from tests.mobile_jax.fixtures import quick
from tests.mobile_jax.quantised.conftest import SMALL

PASST = PaSSTConfig(width=8, depth=1, heads=2, columns=12)


def plain(cfg):
  return cfg.with_compute(kernels="xla")


def test_grid():
  grid = Grid(step=32, more=0, most=31)
  assert [grid.count(frames) for frames in (1, 32, 33, 1000)] == [1, 1, 2, 32]
  assert grid.cuts(31) == [(0, 31)]
  assert grid.cuts(63) == [(0, 21), (21, 21), (42, 21)]
  patches = Grid(step=10, more=6, most=99)
  assert [patches.count(frames) for frames in (3, 16, 25, 26, 1000)] == [1, 1, 1, 2, 99]
  assert patches.frames(99) == 996


@pytest.mark.parametrize(
  ("cfg", "hop_ms", "width", "most"),
  [
    pytest.param(MN, 320, 184, 32, marks=pytest.mark.slow),
    pytest.param(DYMN, 320, 184, 32, marks=pytest.mark.slow),
    (CPMobileConfig(), 125, 168, 8),
    (CPResNetConfig(), 93.75, 92, 11),
    (PASST, 100, 8, 9),
    pytest.param(MobileNetV2Config(), 320, 1280, 32, marks=pytest.mark.slow),
    pytest.param(EfficientNetConfig(), 320, 1280, 32, marks=pytest.mark.slow),
  ],
  ids=lambda value: type(value).__name__.removesuffix("Config"),
)
def test_every_family(cfg, hop_ms, width, most):
  made = MobileFrames(plain(cfg), shapes(plain(cfg)))  # nothing is computed
  assert (made.hop_ms, made.output_dim, made.grid.most) == (hop_ms, width, most)
  rate = made.sampling_rate
  assert made.group(1) == made.grid.least
  # What a task with labels over time goes by.
  assert abs(7000 / made.group(7 * rate) - hop_ms) < 0.05 * hop_ms
  wave = jax.ShapeDtypeStruct((2, made._samples(3)), jnp.float32)
  assert jax.eval_shape(made._call, made.variables, wave).shape == (2, 3, width)


def test_steps_of_a_network_that_lost_one():
  x = jnp.arange(7.0)[None, :, None]
  np.testing.assert_array_equal(in_steps(x, 4)[0, :, 0], [0.5, 2.5, 4.5, 6])
  np.testing.assert_array_equal(in_steps(x[:, :3], 4)[0, :, 0], [0, 1, 2, 2])


@pytest.mark.slow
def test_the_mean_over_steps_is_the_scene():
  made = MobileFrames(MN, mobile(MN))
  rate = made.sampling_rate
  wave = noise(round(0.64 * rate))
  (found,) = made.frames([wave])
  assert found.shape == (2, made.output_dim)
  scene = mobile_jax.scene_embeddings(MN, mobile(MN), jnp.asarray(wave[None]))
  np.testing.assert_allclose(found.mean(axis=0), scene[0], atol=2e-5)


def test_company_and_passes_change_nothing():
  variables = drawn(shapes(PASST))
  made = MobileFrames(PASST, variables)
  rate = made.sampling_rate
  long, other = noise(2 * rate), noise(2 * rate, 1)
  (alone,), together = made.frames([long]), made.frames([other, long])
  np.testing.assert_allclose(together[1], alone, atol=2e-5)
  assert len(alone) == 19  # in passes of 7, 6 and 6 columns, as scene models hear a second
  hop = PASST.stride * PASST.mel.hop_length
  (second,) = made.frames([long[7 * hop :][: 6 * hop + 6 * PASST.mel.hop_length]])
  np.testing.assert_allclose(alone[7:13], second, atol=2e-5)


@pytest.fixture(scope="module")
def scene_model():
  return dataclasses.replace(SMALL, mel=CPMobileConfig().mel)


def test_the_mean_weighs_the_last_step_by_what_it_holds(scene_model, monkeypatch):
  embedder = StepEmbedder(scene_model, shapes(scene_model))
  whole = round(embedder.steps.hop_ms / 1000 * embedder.sample_rate)
  steps = np.array([[1.0], [2.0], [8.0]], np.float32)
  monkeypatch.setattr(embedder.steps, "frames", lambda waves: [steps[: -(-len(waves[0]) // whole)]])
  for samples, mean in ((whole // 2, 1), (2 * whole, 1.5), (2 * whole + whole // 4, 5 / 2.25)):
    (scene,) = embedder.scenes([noise(samples)])
    np.testing.assert_allclose(scene, [mean], rtol=1e-6)
  with pytest.raises(BadAudio, match="too short"):
    embedder.group(10)


def test_centres_are_those_of_steps_and_of_patches(scene_model):
  steps, patches = (MobileFrames(cfg, shapes(cfg)) for cfg in (scene_model, PASST))
  np.testing.assert_allclose(steps.centres_ms(2), steps.hop_ms * np.array([0.5, 1.5]))
  # Sixteen frames of 10 ms, every ten.
  np.testing.assert_allclose(patches.centres_ms(3), [80, 180, 280])


@pytest.mark.slow
def test_other_families_are_embedded_by_their_steps(scene_model):
  """The scene is what the network pools."""
  variables = drawn(shapes(scene_model))
  embedder = mobile_embedder(scene_model, variables, windows=(WINDOW_SECONDS, HOP_SECONDS))
  wave = noise(2 * round(embedder.steps.hop_ms / 1000 * embedder.sample_rate))
  (made,) = embedder.embed([wave])
  assert embedder.group(len(wave)) == len(made.timestamps) == 2
  np.testing.assert_allclose(made.timestamps.mean(axis=0), made.scene, atol=1e-6)
  np.testing.assert_allclose(made.times_ms, embedder.steps.hop_ms * np.array([0.5, 1.5]))
  frames = 2 * embedder.steps.grid.step
  pooled = quick(lambda v, x: infer(scene_model, v, log_mel(scene_model, x, frames)).features)
  np.testing.assert_allclose(made.scene, pooled(variables, wave[None])[0], atol=2e-5)


def test_settings_of_mn_and_dymn_are_none_of_other_families(scene_model, monkeypatch):
  """Said of one network they are refused; in a comparison they are of those that have them."""
  for told in ({"features": ("blocks",)}, {"pooling": "max"}, {"windows": (0.2, 0.1)}):
    with pytest.raises(UsageError, match="for MN and DyMN; cp_mobile has"):
      mobile_embedder(scene_model, shapes(scene_model), **told)
  made = scene_model, drawn(shapes(scene_model))
  monkeypatch.setattr(encoders, "is_dasheng", lambda path, model: False)
  monkeypatch.setattr(mobile_jax, "read_model", lambda path: made)
  found = encoders.open_encoder("x.safetensors", features=("mel",))
  assert (found.settings["family"], found.timestamps) == ("cp_mobile", False)


def test_dasheng_gives_its_tokens():
  made = DashengFrames(DASHENG, dasheng())
  assert (made.hop_ms, made.sampling_rate, made.output_dim) == (40, 16_000, 16)
  found = made.frames([noise(8_000), noise(7_000, 1)])
  assert [len(tokens) for tokens in found] == [12, 11]
  (alone,) = made.frames([noise(7_000, 1)])
  np.testing.assert_allclose(found[1], alone, atol=2e-5)
  assert made.frames([noise(100)])[0].shape == (1, 16)


@pytest.mark.slow
def test_what_has_no_time_is_refused():
  assert parts_over_time(MN, ("b5", "mel")) == ("mel", "b5")
  assert grid_of(MN, mobile(MN), ("mel", "b5")).step == 8
  # The front end needs 514 samples; a mel frame stands for 320.
  assert grid_of(MN, mobile(MN), ("mel",)) == Grid(step=1, more=0, most=1000, least=2)
  for feature in ("logits", "clf1", "se5"):
    with pytest.raises(ConfigError, match=f"feature '{feature}' has no time axis"):
      parts_over_time(MN, (feature,))
