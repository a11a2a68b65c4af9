"""Embedding whole sets: padding never counts, order is kept, few shapes are compiled."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evaluation import embed as module
from experiments.evaluation.embed import POOLINGS, bucket_samples, embed_set
from experiments.evaluation.rivals import FULL_RANGE, TOP_50_DB, log_mel_statistics
from pipelines.errors import DataError
from pipelines.mel import log_mel
from pipelines.tasks.labelled import LabelledSet

RNG = np.random.default_rng(1)


def make_set(lengths):
  waves = [RNG.uniform(-1, 1, n).astype(np.float32) for n in lengths]
  count = len(lengths)
  ids = [f"clip{i}" for i in range(count)]
  return waves, LabelledSet(
    "toy", ids, np.zeros(count, np.int32), ["g"] * count, ["x"], waves.__getitem__
  )


def toy_embed(params, wave, lengths):
  """Two features per token of 640 samples: mean and mean square, times a parameter."""
  del lengths
  pieces = wave[:, : wave.shape[1] // 640 * 640].reshape(wave.shape[0], -1, 640)
  return params * jnp.stack([pieces.mean(-1), jnp.square(pieces).mean(-1)], axis=-1)


def tokens_of(wave):
  pieces = np.pad(wave, (0, max(0, 640 - wave.size)))
  pieces = pieces[: max(wave.size // 640, 1) * 640].reshape(-1, 640).astype(np.float64)
  return np.stack([pieces.mean(-1), np.square(pieces).mean(-1)], axis=-1)


LENGTHS = [16_000, 300, 8_000, 15_003, 640, 40_000, 16_000, 5_000, 33_333, 1_279]


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_pooling_equals_each_clip_alone(pooling):
  waves, toy = make_set(LENGTHS)
  features = embed_set(toy_embed, jnp.float32(3), toy, pooling, batch_seconds=6, progress=False)
  parts = {"mean": np.mean, "std": np.std, "max": np.max}
  for wave, row in zip(waves, features, strict=True):
    tokens = 3 * tokens_of(wave)
    expected = [parts[name](tokens, axis=0) for name in pooling.split("_")]
    np.testing.assert_allclose(row, np.concatenate(expected), atol=1e-5)


def test_few_shapes_and_all_clips_once():
  _, toy = make_set(list(RNG.integers(1_000, 40_000, 60)))
  shapes, seen = set(), []
  for index, wave, lengths in module.batches(toy, batch_seconds=10):
    shapes.add(wave.shape)
    seen += index
    for row, i in enumerate(index):
      assert lengths[row] == toy.load(i).size
      assert not wave[row, lengths[row] :].any()
    assert (lengths[len(index) :] == 640).all()
  assert sorted(seen) == list(range(60))
  assert len(shapes) <= 10


def test_buckets():
  assert bucket_samples(1) == bucket_samples(8_000) == 8_000
  assert bucket_samples(8_001) == 8_640
  assert bucket_samples(8_641) == 9_600
  for exact in (16_000, 80_000, 160_000, 480_000):
    assert bucket_samples(exact) == exact
    assert bucket_samples(exact + 16) == exact + 640
  for samples in RNG.integers(8_000, 16_000 * 4_000, 500):
    assert samples <= bucket_samples(int(samples)) < 1.34 * samples


def test_errors():
  _, toy = make_set([16_000, 0])
  with pytest.raises(DataError, match="choose one of mean"):
    embed_set(toy_embed, 1.0, toy, "median")
  with pytest.raises(DataError, match="clip1"):
    embed_set(toy_embed, 1.0, toy)


@pytest.mark.parametrize("cfg", [FULL_RANGE, TOP_50_DB])
def test_rival_is_the_statistics_of_the_valid_frames(cfg):
  waves, toy = make_set([16_000, 9_000])
  features = log_mel_statistics(toy, cfg, progress=False)
  assert features.shape == (2, 128)
  for wave, row in zip(waves, features, strict=True):
    # The last frames see what follows the clip, so they are no part of either side.
    frames = np.asarray(log_mel(jnp.asarray(wave[None]), cfg))[0, :, : wave.size // 160]
    expected = np.concatenate([frames.mean(1), frames.std(1)])
    np.testing.assert_allclose(row, expected, atol=0.1)
