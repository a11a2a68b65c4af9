"""A recording's embedding is that of the package's own functions, whatever its company."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dasheng_jax
import mobile_jax
from experiments.embedding import mobile as embedding_mobile
from experiments.embedding.dasheng import DashengEmbedder
from experiments.embedding.embedder import in_batches, powers_of_two
from experiments.embedding.load import is_dasheng
from experiments.embedding.mobile import LONG, MobileEmbedder, with_reflected_end
from mobile_jax import native
from mobile_jax.network import shapes
from mobile_jax.weights.load import write_model
from pipelines.errors import BadAudio
from pipelines.kaldi_mel import KALDI_MEL, log_mel_32k
from tests.experiments.embed_models import DASHENG, MN, dasheng, mobile, noise, with_clamp
from tests.mobile_jax.fixtures import quick

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def mn():
  return MobileEmbedder(MN, mobile(MN), timestamps=(0.16, 0.05), batch_seconds=2.0)


def reference(function, cfg, wave):
  call = jax.jit(functools.partial(function, cfg))
  return jax.tree.map(lambda x: np.asarray(x[0]), call(mobile(cfg), jnp.asarray(wave[None])))


def test_a_longer_wave_begins_with_the_same_frames():
  for samples in (514, 5_121):
    wave = noise(samples)
    longer = with_reflected_end(wave, KALDI_MEL)
    frames = KALDI_MEL.frames(samples)
    assert len(longer) == frames * 320 + 400
    ours, alone = (np.asarray(quick(log_mel_32k)(jnp.asarray(x[None]))) for x in (longer, wave))
    np.testing.assert_allclose(ours[..., :frames], alone, atol=TOLERANCE)


@pytest.mark.slow
def test_mobile_scenes_and_timestamps_are_those_of_each_alone(mn):
  waves = [noise(n, n) for n in (15_990, 15_700, 15_681)]
  assert {mn.group(len(w)) for w in waves} == {50}
  assert mn.rows(50) == 4
  found = mn.embed(waves)[1]
  want = reference(mobile_jax.scene_embeddings, MN, waves[1])
  np.testing.assert_allclose(found.scene, want, atol=TOLERANCE)
  want, times = reference(mobile_jax.timestamp_embeddings, MN, waves[1])
  np.testing.assert_allclose(found.timestamps, want, atol=TOLERANCE)
  np.testing.assert_array_equal(found.times_ms, times)


def test_mobile_long_scenes_are_the_mean_over_windows(mn, monkeypatch):
  assert [mn.group(n) for n in (320_000, 320_001)] == [1000, LONG]
  # Seconds; the rule is the same at any length.
  monkeypatch.setattr(embedding_mobile, "LONGEST_SCENE", 0.16)
  monkeypatch.setattr(embedding_mobile, "SCENE_HOP", 0.05)
  wave = noise(15_700, 15_700)
  assert mn.group(len(wave)) == LONG
  windows, _ = mn.over_time([wave])[0]  # the same ones, and right by the test above
  np.testing.assert_allclose(mn.scenes([wave])[0], windows.mean(axis=0), atol=TOLERANCE)


def test_a_rare_length_is_heard_by_a_program_that_is_compiled_in_a_hurry():
  """The kernels' own numbers: XLA has little left to optimise there."""
  if not native.available():
    pytest.skip("needs the native kernels: a CPU backend and a C++17 compiler")
  cfg = MN.with_compute(kernels="auto")
  embedder = MobileEmbedder(cfg, mobile(cfg), batch_seconds=0.32)
  assert embedder._describe_one is not embedder._describe
  waves = [noise(5_100, seed) for seed in range(3)]
  assert embedder.rows(embedder.group(5_100)) == 2
  together, alone = embedder.embed(waves)[:2], [embedder.embed([wave])[0] for wave in waves[:2]]
  for one, other in zip(alone, together, strict=True):
    np.testing.assert_allclose(one.scene, other.scene, atol=TOLERANCE)
  plain = MobileEmbedder(MN, mobile(MN))
  assert plain._describe_one is plain._describe


def test_mobile_too_short(mn):
  scenes = MobileEmbedder(MN, mobile(MN))
  assert scenes.group(514) == 2
  with pytest.raises(BadAudio, match="too short: 16 ms; at least 16 ms"):
    scenes.group(513)
  with pytest.raises(BadAudio, match="too short: 80 ms; .* timestamps"):
    mn.group(2_560)
  assert mn.group(2_561)


# 16480 samples: one token more than the 40 ms that fit. Quiet: a neighbour's clamp would raise it.
QUIET = noise(16_480, 1, 1e-3)


@pytest.fixture(scope="module")
def quiet_tokens():
  """What the package says of QUIET alone."""
  alone = functools.partial(dasheng_jax.embed, with_clamp(DASHENG, "sample"))
  return np.asarray(jax.jit(alone)(dasheng(), jnp.asarray(QUIET[None])))[0]


def test_dasheng_is_the_package_s_in_loud_and_longer_company(quiet_tokens):
  embedder = DashengEmbedder(DASHENG, dasheng(), timestamps=True, batch_seconds=3.0)
  waves = [QUIET, noise(19_000, 3, 0.9)]
  assert embedder.rows(embedder.group(len(QUIET))) == 2
  assert len({embedder.group(len(w)) for w in waves}) == 1
  found, longer = embedder.embed(waves)
  assert quiet_tokens.shape == (26, 16)
  np.testing.assert_allclose(found.timestamps, quiet_tokens, atol=TOLERANCE)
  np.testing.assert_allclose(found.scene, quiet_tokens.mean(axis=0), atol=TOLERANCE)
  assert found.times_ms.tolist() == [20 + 40 * i for i in range(26)]
  assert longer.times_ms[-1] <= 1000 * 19_000 / 16_000
  assert embedder.group(480)
  with pytest.raises(BadAudio, match="too short: 30 ms"):
    embedder.group(479)


def test_dasheng_poolings_and_scenes_alone(quiet_tokens):
  embedder = DashengEmbedder(DASHENG, dasheng(), pooling="mean_max", batch_seconds=1.0)
  (made,) = embedder.embed([QUIET])
  want = np.concatenate([quiet_tokens.mean(axis=0), quiet_tokens.max(axis=0)])
  np.testing.assert_allclose(made.scene, want, atol=TOLERANCE)
  assert made.timestamps is None


def test_batches_have_few_sizes():
  seen = []

  def call(x, y):
    seen.append(len(x))
    return x + y, jnp.square(x)

  rows = [(np.float32(i), np.float32(1)) for i in range(11)]
  made = in_batches(call, rows, (1, 8))
  assert seen == [8, 1, 1, 1]
  assert [float(a) for a, _ in made] == [i + 1 for i in range(11)]
  assert [float(b) for _, b in made] == [i * i for i in range(11)]
  seen.clear()
  in_batches(call, rows, powers_of_two(8))
  assert seen == [8, 4]
  assert powers_of_two(8) == (1, 2, 4, 8)
  assert powers_of_two(12) == (1, 2, 4, 8, 12)
  assert powers_of_two(1) == (1,)


def test_exports_and_scene_models_are_told_from_dasheng_by_their_record(tmp_path):
  cfg = mobile_jax.named("cp_mobile_32")
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes(cfg))
  write_model(tmp_path / "model.safetensors", cfg, zeros)
  assert not is_dasheng(tmp_path / "model.safetensors", "")
  (tmp_path / "run").mkdir()
  assert is_dasheng(tmp_path / "run", "")
  assert is_dasheng(tmp_path / "absent.safetensors", "")
