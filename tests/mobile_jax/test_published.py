"""The published mn04 on real clips: tags, maps and every embedding, as the original gave them.

Checkpoint and recordings are other people's, so they are read beside the repository alone.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from mobile_jax.embeddings import (
  ORDER,
  describe_log_mel,
  load_embedder,
  parts_of,
  scene_embeddings,
  timestamp_embeddings,
)
from mobile_jax.inference import log_mel, tag
from mobile_jax.network import infer
from mobile_jax.weights.load import load_model, read_model
from tests.mobile_jax.fixtures import quick, stage_errors, worst

FILE = "mn04_as_mAP_432.pt"
EVERYTHING = ("mel", "clf1", "clf2", "logits", "se", "blocks")
SETS = {
  **{name: (name,) for name in ("L", "M_B", "M_SE", "H_Clf1", "H_Clf2", "H_Clf3")},
  "M_B+L": ("M_B", "L"),
  "ALL": EVERYTHING,
  "b0_to_b15": ("all_blocks",),
}
CLOSE = 2e-4


@pytest.fixture(scope="module")
def checkpoint(mobile_fixtures, torch):
  return mobile_fixtures / FILE


@pytest.fixture(scope="module")
def mn04(checkpoint):
  """(configuration, variables); the file's name says which model it is."""
  return read_model(checkpoint)


@pytest.fixture(scope="module")
def real(mobile_fixtures):
  return dict(np.load(mobile_fixtures / "mn04_real.npz"))


@pytest.fixture(scope="module")
def hear(mobile_fixtures):
  return dict(np.load(mobile_fixtures / "mn04_hear.npz"))


@pytest.fixture(scope="module")
def clips(mobile_fixtures):
  """name -> f32[1, 320000]."""
  found = {}
  for path in sorted((mobile_fixtures / "audio").glob("*.flac")):
    wave, rate = soundfile.read(path, dtype="int16")
    assert (rate, wave.shape) == (32000, (320000,))
    found[path.stem] = jnp.asarray(wave[None].astype(np.float32) / 32768)
  assert len(found) == 4
  return found


@pytest.fixture(scope="module")
def order(hear):
  return [str(name) for name in hear["order"]]


@pytest.fixture(scope="module")
def passed(mn04, clips, order):
  """(log-mels, `Outputs`) of the four clips in one pass."""
  cfg, variables = mn04

  def run(variables, wave):
    mel = log_mel(cfg, wave)
    return mel, infer(cfg, variables, mel)

  return jax.jit(run)(variables, jnp.concatenate([clips[name] for name in order]))


def test_log_mels(passed, real, order):
  for mel, name in zip(np.asarray(passed[0]), order, strict=True):
    whole = f"{name}/logmel" in real
    theirs = real[f"{name}/logmel"] if whole else real[f"{name}/logmel_every10"]
    assert worst(mel if whole else mel[:, ::10], theirs) <= 1e-4
    assert worst(mel.mean(1), real[f"{name}/logmel_mean_time"]) <= 1e-5
    assert worst(mel.std(1), real[f"{name}/logmel_std_time"]) <= 1e-5


def test_logits_features_and_the_ten_best(passed, real, order):
  _, out = passed
  for i, name in enumerate(order):
    assert worst(out.logits[i : i + 1], real[f"{name}/logits"]) <= CLOSE
    assert worst(out.logits[i : i + 1], real[f"{name}/logits_f64"]) <= CLOSE
    assert worst(out.features[i : i + 1], real[f"{name}/features"]) <= CLOSE
    best = np.argsort(-np.asarray(out.logits[i]))[:10]
    np.testing.assert_array_equal(best, real[f"{name}/top10_index"])
    chance = jax.nn.sigmoid(out.logits[i][best])
    assert worst(chance, real[f"{name}/top10_prob"]) <= 1e-4


def test_maps(passed, real, order):
  for i, name in enumerate(order):
    stages = [stage[i : i + 1] for stage in passed[1].stages]
    assert max(stage_errors(stages, real, f"{name}/")) <= CLOSE


@pytest.mark.parametrize("name", SETS)
def test_scene_embeddings(name, mn04, passed, hear):
  cfg, _ = mn04
  mel, out = passed
  ours = describe_log_mel(cfg, out, mel, parts_of(SETS[name], cfg))
  assert worst(ours, hear[f"scene/{name}"]) <= CLOSE


@pytest.mark.parametrize(
  "samples", [5120, *(pytest.param(n, marks=pytest.mark.slow) for n in (16000, 32000, 52345))]
)
@pytest.mark.slow
def test_short_clips(samples, mn04, clips, real):
  cfg, variables = mn04
  wave = clips["speech"][:, :samples]
  logits, _ = jax.jit(functools.partial(tag, cfg))(variables, wave)
  assert worst(logits, real[f"speech_first{samples}/logits"]) <= CLOSE
  theirs = real[f"speech_first{samples}/logmel"]
  mel = log_mel(cfg, wave)[0]
  assert mel.shape[1] == real[f"speech_first{samples}/frames"]
  assert worst(mel if samples <= 16000 else mel[:, ::5], theirs) <= 1e-4


@pytest.mark.slow
def test_load_model_on_a_batch(checkpoint, clips, real):
  """What a user calls: three seconds of each clip, on plain XLA too."""
  function, variables = load_model(checkpoint, name="mn04_as")
  start, length = int(real["batch3s/offset"]), int(real["batch3s/length"])
  wave = jnp.concatenate([clips[str(n)][:, start : start + length] for n in real["batch3s/order"]])
  logits, features = jax.jit(function)(variables, wave)
  assert worst(logits, real["batch3s/logits"]) <= CLOSE
  assert worst(features, real["batch3s/features"]) <= CLOSE
  plain = functools.partial(tag, function.args[0].with_compute(kernels="xla"))
  logits, features = quick(plain)(variables, wave)
  assert worst(logits, real["batch3s/logits"]) <= CLOSE
  assert worst(features, real["batch3s/features"]) <= CLOSE


def test_timestamp_embeddings(mn04, clips, hear):
  cfg, variables = mn04
  describe = functools.partial(timestamp_embeddings, cfg, features=EVERYTHING)
  found, times = jax.jit(describe)(variables, clips["speech"][:, :48000])
  assert worst(found, hear["timestamp/ALL"]) <= CLOSE
  assert worst(times, hear["timestamp/times_ms"]) <= 1e-3


@pytest.mark.slow
def test_timestamp_embeddings_of_a_wide_window(mn04, clips, hear):
  cfg, variables = mn04
  describe = functools.partial(
    timestamp_embeddings, cfg, features=("L", "M_B"), window_seconds=0.64
  )
  found, times = jax.jit(describe)(variables, clips["speech"][:, :48000])
  picked = found[:, np.asarray([0, 7, found.shape[1] - 1])]
  assert worst(picked, hear["timestamp640/M_B+L_first_last"]) <= CLOSE
  assert worst(times, hear["timestamp640/times_ms"]) <= 1e-3


@pytest.mark.slow
def test_long_scenes(mn04, clips, hear):
  """Fifteen seconds: seven windows of ten, and their mean."""
  cfg, variables = mn04
  wave = jnp.concatenate([clips["speech"], clips["typing"][:, :160000]], axis=1)
  windows = functools.partial(
    timestamp_embeddings, cfg, features=EVERYTHING, window_seconds=10.0, hop_seconds=2.5
  )
  found, times = jax.jit(windows)(variables, wave)
  assert worst(found, hear["scene_long15s/per_window_ALL"]) <= CLOSE
  assert worst(times, hear["scene_long15s/times_ms"]) <= 1e-3
  assert worst(found.mean(1), hear["scene_long15s/ALL"]) <= CLOSE


def test_long_scenes_are_the_mean_of_their_windows(mn04, clips, hear, monkeypatch):
  """`scene_embeddings` cuts as recorded; the windows themselves are checked above."""
  cfg, variables = mn04
  asked = {}

  def windows(cfg, variables, wave, **options):
    asked.update(options)
    return jnp.asarray(hear["scene_long15s/per_window_ALL"]), None

  monkeypatch.setattr("mobile_jax.embeddings.timestamp_embeddings", windows)
  ours = scene_embeddings(cfg, variables, jnp.zeros((1, 480000)), features=EVERYTHING)
  assert worst(ours, hear["scene_long15s/ALL"]) <= 1e-5
  assert (asked["window_seconds"], asked["hop_seconds"]) == (10.0, 2.5)


@pytest.mark.slow
def test_poolings(mn04, clips, hear):
  """All six from one pass, and the default one through `load_embedder`'s function."""
  cfg, variables = mn04
  wave = clips["speech"][:, :64000]
  out = jax.jit(lambda v, w: infer(cfg, v, log_mel(cfg, w)))(variables, wave)
  names = {
    "avg": "avg_ch_pool",
    "max": "max_ch_pool",
    "add": "add_avg_max_ch_pool",
    "cat": "cat_avg_max_ch_pool",
    "avg_time": "avg_time_pool",
    "avg_max_time": "avg_max_time_pool",
  }
  blocks = [f"b{n}" for n in (5, 11, 13, 15)]
  for ours, theirs in names.items():
    if ours == "cat":  # average and maximum side by side for each block
      assert hear[f"pool_speech2s/{theirs}"].shape == (1, 384)
    made = describe_log_mel(cfg, out, log_mel(cfg, wave), tuple(blocks), ours)
    assert worst(made, hear[f"pool_speech2s/{theirs}"]) <= CLOSE, ours


@pytest.mark.slow
def test_load_embedder(checkpoint, clips, hear, order):
  describe, variables = load_embedder(checkpoint, features=("M_B", "L"))
  ours = jax.jit(describe)(variables, clips[order[2]])
  assert worst(ours, hear["scene/M_B+L"][2:3]) <= CLOSE


@pytest.mark.slow
def test_windows_over_time(mn04, clips, real):
  """Tags of windows of 4 s every 2.5 s, the end filled with zeros."""
  cfg, variables = mn04
  window, hop = (round(32000 * float(real[f"windowed/{k}_s"])) for k in ("window", "hop"))
  count = len(real["windowed/probs"])
  wave = jnp.pad(clips["speech"], ((0, 0), (0, (count - 1) * hop + window - 320000)))
  cut = jnp.concatenate([wave[:, i * hop : i * hop + window] for i in range(count)])
  logits, _ = jax.jit(functools.partial(tag, cfg))(variables, cut)
  assert worst(jax.nn.sigmoid(logits), real["windowed/probs"]) <= 1e-4


@pytest.mark.slow
def test_bfloat16_names_the_same_tags(mn04, clips, order, real):
  cfg, variables = mn04
  half = functools.partial(tag, dataclasses.replace(cfg).with_compute(dtype="bfloat16"))
  logits, _ = quick(half)(variables, clips[order[1]][:, :64000])
  exact, _ = quick(functools.partial(tag, cfg))(variables, clips[order[1]][:, :64000])
  assert np.argmax(logits) == np.argmax(exact)
  assert worst(jax.nn.sigmoid(logits), np.asarray(jax.nn.sigmoid(exact))) < 0.1


def test_everything_has_a_place_in_the_order(mn04):
  assert parts_of(("all_blocks", *EVERYTHING), mn04[0]) == tuple(
    part for part in ORDER if part not in ("se4", "se6", "se12", "se14")
  )
