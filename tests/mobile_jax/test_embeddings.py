"""Feature sets: names, order, sizes (section 9), poolings, windows; values in test_published.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.errors import ConfigError
from mobile_jax import embeddings
from mobile_jax.config import SIZES, DyMNConfig, MNConfig
from mobile_jax.embeddings import (
  describe_log_mel,
  embedding_size,
  load_embedder,
  parts_of,
  pool_map,
  scene_embeddings,
  timestamp_embeddings,
)
from mobile_jax.inference import log_mel
from mobile_jax.network import infer
from mobile_jax.weights.load import write_model
from tests.mobile_jax.fixtures import drawn, quick, shapes_of, worst

TINY = MNConfig(width=0.1, classes=5)
# Section 9.4: some modules of the released package at width 1.
SIZES_AT_WIDTH_1 = [
  (("blocks",), "avg", 472),
  (("blocks", "se"), "avg", 1032),
  (("blocks",), "avg_max_time", 2816),
  (("blocks",), "avg_time", 2816),
  (("blocks", "clf1"), "avg", 1432),
  (("blocks", "clf2"), "avg", 1752),
  (("blocks", "logits"), "avg", 999),
  (("blocks",), "max", 472),
  (("blocks", "mel"), "avg", 600),
  (("blocks", "mel"), "add", 600),
  (("blocks", "mel"), "avg_time", 2944),
  (("blocks", "mel"), "cat", 1072),
  (("se",), "avg", 560),
  (("se", "clf1"), "avg", 1520),
  (("se", "mel"), "avg", 688),
  (("mel", "clf1", "blocks", "logits"), "avg", 2087),
  (("mel", "clf2", "se", "logits"), "avg", 2495),
  (("b0", "b1", "b2", "b3"), "avg", 80),
  (("b12", "b13", "b14", "b15"), "avg", 592),
  (("b5", "b11", "b15"), "avg", 312),
  (("b7",), "avg", 80),
  (("clf1",), "avg", 960),
  (("clf2",), "avg", 1280),
  (("logits",), "avg", 527),
  (("mel",), "avg", 128),
]


@pytest.fixture(scope="module")
def width_1():
  """Shapes of one forward pass of mn10 on 10 s."""
  cfg = SIZES["mn10"]
  mel = jax.ShapeDtypeStruct((1, 128, 1000), jnp.float32)
  return cfg, jax.eval_shape(functools.partial(infer, cfg), shapes_of(cfg), mel), mel


@pytest.mark.parametrize(("features", "pooling", "size"), SIZES_AT_WIDTH_1)
def test_sizes_of_the_released_modules(features, pooling, size, width_1):
  cfg, out, mel = width_1
  parts = parts_of(features, cfg)
  made = jax.eval_shape(lambda o, m: describe_log_mel(cfg, o, m, parts, pooling), out, mel)
  assert made.shape == (1, size)


@pytest.mark.slow
def test_size_of_an_embedding():
  assert embedding_size(TINY, ("blocks", "mel")) == 184
  assert embedding_size(TINY, ("blocks",), "avg_time") == 384


@pytest.mark.parametrize("name", ["mn01", "mn02", "mn04", "mn05", "mn10", "mn20", "mn30", "mn40"])
def test_sizes_by_width(name):
  """M_B and M_SE of section 9.3."""
  blocks = {"mn01": 56, "mn02": 96, "mn04": 192, "mn05": 240, "mn10": 472, "mn20": 944}
  blocks |= {"mn30": 1416, "mn40": 1888}
  cfg = SIZES[name]
  assert sum(cfg.blocks[n - 1].out for n in embeddings.STUDIED) == blocks[name]


def test_parts_stand_in_the_released_order():
  wanted = ("mel", "clf1", "logits", "se5", "se11", "se13", "se15", "b5", "b11", "b13", "b15")
  asked = ("blocks", "se", "mel", "logits", "clf1")
  assert parts_of(asked, TINY) == parts_of(tuple(reversed(asked)), TINY) == wanted
  assert parts_of(("M_B", "L", "M_SE", "H_Clf3", "H_Clf1"), TINY) == wanted
  assert parts_of("mel_avgs", TINY) == ("mel",)
  assert parts_of(("b15", "blocks", "b2"), TINY) == ("b2", "b5", "b11", "b13", "b15")
  assert parts_of(("all_blocks",), TINY) == tuple(f"b{n}" for n in range(16))


@pytest.mark.parametrize(
  ("features", "cfg", "message"),
  [
    (("block",), TINY, "block.*blocks"),
    (("clf3",), TINY, "clf3.*clf"),
    (("b16",), TINY, "b16"),
    ((), TINY, "features is empty"),
    (("se",), DyMNConfig(width=0.1), "'se' needs an MN with se 'c'; use 'blocks'"),
    (("se5",), MNConfig(se="none"), "'se' needs an MN with se 'c'"),
    (("clf2",), MNConfig(head="attention"), "'clf2' is the mlp head's hidden layer"),
  ],
)
def test_feature_sets_that_a_model_does_not_have(features, cfg, message):
  with pytest.raises(ConfigError, match=message) as caught:
    parts_of(features, cfg)
  assert "\n" not in str(caught.value)


def test_poolings_of_a_map():
  x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
  mean, peak = x.mean((1, 2)), x.max((1, 2))
  by_place = x.mean(2).transpose(0, 2, 1).reshape(2, 15)  # channel by channel, frequency fastest
  wanted = {
    "avg": mean,
    "max": peak,
    "add": mean + peak,
    "cat": np.concatenate([mean, peak], -1),
    "avg_time": by_place,
    "avg_max_time": by_place + x.max(2).transpose(0, 2, 1).reshape(2, 15),
  }
  for name, want in wanted.items():
    assert worst(pool_map(jnp.asarray(x), name), want) <= 1e-6, name


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_pooling():
  with pytest.raises(ConfigError, match="pooling is 'mean'; choose from avg, max"):
    pool_map(jnp.ones((1, 2, 2, 2)), "mean")
  # Without a block nothing is pooled, and the weights need not be read to tell.
  with pytest.raises(ConfigError, match="pooling is 'bogus'"):
    load_embedder("no.pt", config=TINY, features="mel", pooling="bogus")
  with pytest.raises(ConfigError, match="pooling is 'bogus'"):
    scene_embeddings(TINY, {}, jnp.zeros((1, 6000)), features="mel", pooling="bogus")


@pytest.fixture(scope="module")
def wave():
  t = np.arange(6000) / 32000
  return jnp.asarray([np.sin(2 * np.pi * f * t * (1 + 3 * t)) for f in (300, 900)], jnp.float32)


@pytest.fixture(scope="module")
def variables():
  return drawn(shapes_of(TINY), seed=5)


def test_windows_are_cut_from_the_reflected_wave(wave, variables):
  """By the log-mel's mean, which needs no network: each window is embedded as a clip of its own."""
  run = functools.partial(
    timestamp_embeddings, TINY, features=("mel",), window_seconds=0.05, hop_seconds=0.02
  )
  found, times = quick(run)(variables, wave)
  padded = np.pad(np.asarray(wave), ((0, 0), (800, 800)), mode="reflect")
  count = 6000 // 640 + 1
  assert (found.shape, times.shape) == ((2, count, 128), (2, count))
  np.testing.assert_allclose(times[1], 20.0 * np.arange(count), rtol=1e-6)
  for i in range(count):
    clip = jnp.asarray(padded[:, 640 * i : 640 * i + 1600])
    assert worst(found[:, i], np.asarray(log_mel(TINY, clip).mean(2))) <= 1e-4


@pytest.mark.slow
def test_windows_through_the_network_in_rounds(wave, variables, monkeypatch):
  """However many go through it at once, the last round filled up or not."""
  options = {"features": ("blocks", "logits"), "window_seconds": 0.05, "hop_seconds": 0.04}
  run = functools.partial(timestamp_embeddings, TINY, **options)
  monkeypatch.setattr(embeddings, "WINDOWS_AT_ONCE", 4)  # two clips: two windows a round, of five
  found, _ = quick(run)(variables, wave)
  padded = jnp.pad(wave, ((0, 0), (800, 800)), mode="reflect")
  clips = jnp.concatenate([padded[:, 1280 * i : 1280 * i + 1600] for i in range(5)])
  scene = functools.partial(scene_embeddings, TINY, features=options["features"])
  apart = np.asarray(quick(scene)(variables, clips)).reshape(5, 2, -1).transpose(1, 0, 2)
  assert found.shape == (2, 5, 56 + 5)
  assert worst(found, apart) <= 1e-4


@pytest.mark.slow
def test_long_scenes_go_through_in_windows(variables, monkeypatch):
  monkeypatch.setattr(embeddings, "LONGEST_SCENE", 0.05)
  monkeypatch.setattr(embeddings, "SCENE_HOP", 0.02)
  wave = jnp.asarray(np.random.default_rng(0).normal(0, 0.1, (1, 4000)), jnp.float32)
  scene = quick(functools.partial(scene_embeddings, TINY, features=("mel",)))(variables, wave)
  windows = functools.partial(
    timestamp_embeddings, TINY, features=("mel",), window_seconds=0.05, hop_seconds=0.02
  )
  assert worst(scene, np.asarray(quick(windows)(variables, wave)[0].mean(1))) <= 1e-5


@pytest.mark.parametrize(
  ("options", "samples", "message"),
  [
    ({"window_seconds": 0.001}, 6000, "windows of 0.001 s every 0.05 s are too short"),
    ({"hop_seconds": 0.0}, 6000, "every 0.0 s are too short"),
    ({"window_seconds": 0.5}, 6000, "6000 samples cannot be reflected by half a window of 16000"),
  ],
)
def test_windows_that_cannot_be_cut(options, samples, message):
  with pytest.raises(ConfigError, match=message) as caught:
    timestamp_embeddings(TINY, {}, jnp.zeros((1, samples)), **options)
  assert "\n" not in str(caught.value)


def test_load_embedder(tmp_path, wave, variables):
  path = tmp_path / "x.safetensors"
  write_model(path, TINY, variables)
  with pytest.raises(ConfigError, match="feature set"):
    load_embedder(path, config=TINY, features=("blocs",))
  describe, loaded = load_embedder(path, config=TINY, features="mel")
  jax.tree.map(np.testing.assert_array_equal, loaded, variables)
  assert quick(describe)(loaded, wave).shape == (2, 128)
