"""One text opens anything that can be evaluated; what it says of a clip is what others say."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.config import SIZES
from dasheng_jax.inference import embed
from experiments.evaluation import encoders
from experiments.evaluation.embed import embed_set
from experiments.evaluation.encoders import name_of, open_encoder
from experiments.evaluation.rivals import FULL_RANGE, TOP_50_DB, LogMelEmbedder, log_mel_statistics
from experiments.evaluation.scenes import embed_clips
from experiments.training.errors import UsageError
from pipelines.errors import DataError
from pipelines.mel import log_mel
from pipelines.tasks import LabelledSet
from tests.experiments.embed_models import DASHENG, noise

LENGTHS = (16_000, 9_000, 4_321)


def clips(lengths=LENGTHS):
  names = [f"clip{i}" for i in range(len(lengths))]
  return LabelledSet(
    "s", names, np.zeros(len(lengths), np.int32), names, ["a"],
    lambda i, rate=16_000: noise(lengths[i], i),
  )  # fmt: skip


def scenes(embedder, labelled):
  return np.stack([made.scene for made in embed_clips(embedder, labelled)])


@pytest.fixture
def tiny(monkeypatch):
  """A small Dasheng under a name, and without C++ kernels."""
  monkeypatch.setitem(SIZES, "dasheng_tiny", DASHENG)
  return "random:dasheng_tiny"


def test_names_in_tables():
  assert name_of("x/encoder.pt", ("x/encoder.pt", "y/other.pt")) == "encoder.pt"
  assert name_of("x/encoder.pt", ("x/encoder.pt", "y/encoder.pt")) == "x/encoder.pt"
  assert name_of("run/", ("run/",)) == "run"
  assert name_of("x/run", ("x/run", "random:x/run")) == "run"
  assert name_of("log_mel_50db", ()) == "log-mel mean and std, top 50 dB"
  assert name_of("random:mn04:7", ("random:mn04:7",)) == "random:mn04:7"


@pytest.mark.parametrize("cfg", [FULL_RANGE, TOP_50_DB])
def test_statistics_of_the_log_mel_are_those_of_the_rival(cfg):
  found = scenes(LogMelEmbedder(cfg), clips())
  np.testing.assert_allclose(found, log_mel_statistics(clips(), cfg, progress=False), atol=1e-4)


def test_frames_of_the_log_mel_are_those_of_the_clip():
  made = embed_clips(open_encoder("log_mel", timestamps=True), clips())
  for i, one in enumerate(made):
    want = np.asarray(log_mel(jnp.asarray(noise(LENGTHS[i], i)[None]), FULL_RANGE))[0].T
    count = LENGTHS[i] // 160
    assert one.timestamps.shape == (count, 64)
    np.testing.assert_allclose(one.timestamps[:-2], want[: count - 2], atol=1e-3)
    np.testing.assert_array_equal(one.times_ms, 10.0 * np.arange(count))


def test_fresh_weights_of_a_seed(tiny):
  one, again, other = (open_encoder(spec) for spec in (tiny, tiny + ":0", tiny + ":1"))
  assert one.settings == again.settings
  assert one.settings["weights"] != other.settings["weights"]
  assert "decoder" not in one.variables["params"]
  made = embed_clips(open_encoder(tiny, timestamps=True), clips())
  assert [len(found.timestamps) for found in made] == [(1 + n // 160) // 4 for n in LENGTHS]


def test_dasheng_hears_what_it_heard_in_padded_batches(tiny):
  """Here the end of a clip is reflected, there silence follows it: one for clips that end silent.

  Of other lengths than these, a token that begins inside of a clip and ends behind it counts here.
  """
  ours = open_encoder(tiny)
  waves = [np.pad(noise(n - 600, n), (0, 600)) for n in LENGTHS[:2]]
  silent = dataclasses.replace(clips(LENGTHS[:2]), load=lambda i, rate=16_000: waves[i])

  def tokens(params, wave, lengths):
    return embed(ours.cfg, params, wave, lengths)

  before = embed_set(tokens, ours.variables, silent, progress=False)
  np.testing.assert_allclose(scenes(ours, silent), before, atol=1e-4)


def test_fresh_weights_behind_trained_statistics(tiny, tmp_path, monkeypatch):
  import dasheng_jax

  trained = open_encoder(tiny + ":5").variables
  trained = {
    **trained,
    "batch_stats": {k: trained["batch_stats"][k] for k in trained["batch_stats"]},
  }
  (tmp_path / "run").mkdir()
  monkeypatch.setattr(encoders, "is_dasheng", lambda path, model: True)
  marked = {"marked": np.float32(3)}
  monkeypatch.setattr(
    dasheng_jax, "read_encoder", lambda path: (DASHENG, {**trained, "batch_stats": marked})
  )
  found = open_encoder(f"random:{tmp_path / 'run'}")
  assert found.variables["batch_stats"] == marked
  fresh = open_encoder(tiny).variables["params"]
  np.testing.assert_array_equal(
    np.asarray(found.variables["params"]["positions"]["time"]), fresh["positions"]["time"]
  )


def test_mistakes(tmp_path):
  with pytest.raises(UsageError, match="random:dasheng_smal: no configuration .* dasheng_small"):
    open_encoder("random:dasheng_smal")
  with pytest.raises(UsageError, match="'x' is no seed; write random:mn04:7"):
    open_encoder("random:mn04:x")
  with pytest.raises(DataError, match="'clip0': is empty"):
    embed_clips(open_encoder("log_mel"), clips((0,)))
