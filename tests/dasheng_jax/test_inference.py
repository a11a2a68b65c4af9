"""Embeddings for waves of any length: chunks, lengths, bad input, and JAX's own transforms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax import inference
from dasheng_jax.config import DashengConfig
from dasheng_jax.errors import ConfigError
from dasheng_jax.inference import (
  check_wave,
  embed,
  embed_log_mel,
  encoder_variables,
  valid_tokens,
)
from tests.dasheng_jax.conftest import with_encoder
from tests.dasheng_jax.fixtures import golden, worst

CHUNK = 12  # patches, in the toy


@pytest.fixture(scope="module")
def run(toy_encoder):
  return jax.jit(functools.partial(embed, *toy_encoder))


@pytest.fixture(scope="module")
def run_log_mel(toy_encoder):
  return jax.jit(functools.partial(embed_log_mel, *toy_encoder))


def noise(rows: int, samples: int, seed: int = 0) -> jax.Array:
  return 0.1 * jax.random.normal(jax.random.key(seed), (rows, samples))


def log_mel(frames: int, rows: int = 1) -> jax.Array:
  return -30 + 12 * jax.random.normal(jax.random.key(frames), (rows, 64, frames))


def test_number_of_embeddings():
  arrays = golden("encoder")
  cfg = DashengConfig()
  counts = [cfg.patches(int(n)) for n in arrays["length_table_n_samples"]]
  assert counts == arrays["length_table_n_out"].tolist()
  table = {16_000: 25, 160_000: 250, 161_120: 252, 200_000: 312, 480_000: 750, 480: 1}
  assert {n: cfg.patches(n) for n in table} == table


@pytest.mark.parametrize("frames", [*range(1007, 1013), 2016])
def test_lengths_around_whole_chunks(frames):
  """Shapes alone: a chunk is 252 patches of 4 frames in every published model."""
  cfg = with_encoder(DashengConfig(), width=16, depth=1, heads=2)
  shapes = jax.eval_shape(functools.partial(inference_shapes, cfg), log_mel(frames))
  assert shapes.shape == (1, frames // 4, 16)


def inference_shapes(cfg, x):
  from dasheng_jax.mae import init_variables

  return embed_log_mel(cfg, init_variables(cfg, jax.random.key(0)), x)


@pytest.mark.parametrize("patches", [CHUNK + 1, 2 * CHUNK])
def test_chunks_are_independent_and_in_order(run_log_mel, patches):
  """Every chunk alone gives its part of the whole, for rows of a batch too."""
  x = log_mel(4 * patches + 3, rows=2)  # three trailing frames belong to no patch
  whole = np.asarray(run_log_mel(x))
  assert whole.shape == (2, patches, 16)
  for row in range(2):
    for start in range(0, patches, CHUNK):
      part = x[row : row + 1, :, 4 * start : 4 * min(start + CHUNK, patches)]
      alone = np.asarray(run_log_mel(part))[0]
      np.testing.assert_allclose(whole[row, start : start + CHUNK], alone, atol=2e-5)


def test_many_chunks_run_some_at_a_time(toy_encoder, run_log_mel, monkeypatch):
  x = log_mel(4 * (3 * CHUNK + 5), rows=2)
  lengths = jnp.array([640 * (2 * CHUNK + 3), 640 * 3])
  direct, direct_masked = run_log_mel(x), run_log_mel(x, lengths)
  monkeypatch.setattr(inference, "CHUNKS_AT_ONCE", 4)  # 6 whole chunks: 4 and 2
  mapped = jax.jit(functools.partial(embed_log_mel, *toy_encoder))
  assert "while" in mapped.lower(x).as_text()
  assert worst(mapped(x), np.asarray(direct)) < 2e-5
  assert worst(mapped(x, lengths), np.asarray(direct_masked)) < 2e-5
  assert worst(direct_masked, np.asarray(direct)) > 1e-3


def test_masked_patches_reach_no_valid_one(run_log_mel):
  x = log_mel(4 * 2 * CHUNK)
  lengths = jnp.array([640 * 17])
  changed = x.at[:, :, 4 * 17 :].add(25.0)
  a, b = run_log_mel(x, lengths), run_log_mel(changed, lengths)
  np.testing.assert_allclose(a[:, :17], b[:, :17], atol=1e-5)
  assert worst(run_log_mel(x)[:, :17], np.asarray(run_log_mel(changed))[:, :17]) > 1e-2


def test_a_chunk_of_padding_alone_is_finite(run_log_mel):
  out = run_log_mel(log_mel(4 * 2 * CHUNK), jnp.array([640 * 3]))
  assert np.isfinite(out).all()


def test_valid_tokens(toy):
  lengths = jnp.array([0, 639, 640, 16_480, 160_000])
  assert valid_tokens(toy[0], lengths).tolist() == [0, 0, 1, 25, 250]


def test_one_embedding_of_the_shortest_wave(run):
  out = run(noise(1, 480))
  assert out.shape == (1, 1, 16)
  assert np.isfinite(out).all()


def test_nan_stays_in_its_row_and_its_chunk(run):
  wave = noise(3, 640 * 3 * CHUNK)
  clean = np.asarray(run(wave))
  broken = np.asarray(run(wave.at[1, 640 * (CHUNK + 5)].set(jnp.nan)))
  assert np.isnan(broken[1, CHUNK : 2 * CHUNK]).all()
  rest = np.delete(broken[1], range(CHUNK, 2 * CHUNK), axis=0)
  np.testing.assert_allclose(rest, np.delete(clean[1], range(CHUNK, 2 * CHUNK), axis=0), atol=1e-4)
  np.testing.assert_allclose(broken[[0, 2]], clean[[0, 2]], atol=1e-4)


def test_silence_is_finite(run):
  assert np.isfinite(run(jnp.zeros((1, 8000)))).all()


@pytest.mark.parametrize(
  ("wave", "lengths", "message"),
  [
    (jnp.zeros(16_000), None, r"shape \(16000,\); expected \[batch, samples\]: use wave\[None\]"),
    (jnp.zeros((2, 1, 800)), None, r"expected \[batch, samples\].*average channels"),
    (jnp.zeros((1, 800), jnp.int16), None, "int16; expected floats.*divide 16-bit samples"),
    (jnp.zeros((1, 479)), None, r"too short: at least one clip of 480 samples \(30 ms\)"),
    (jnp.zeros((0, 800)), None, "too short: at least one clip"),
    (jnp.zeros((1, 0)), None, r"too short.*pad with zeros"),
    (jnp.zeros((2, 800)), jnp.array([800]), r"lengths has shape \(1,\).*\(2,\)"),
    (jnp.zeros((2, 800)), jnp.array([800.0, 800.0]), "lengths is float32; expected whole"),
    (jnp.zeros((2, 800)), jnp.array([[800, 800]]), r"lengths has shape \(1, 2\)"),
  ],
)
def test_input_that_cannot_be_embedded(unchecked, toy_encoder, wave, lengths, message):
  with pytest.raises(ConfigError, match=message) as caught:
    embed(*toy_encoder, wave, lengths)
  assert "\n" not in str(caught.value)
  with pytest.raises(ConfigError, match=message):  # at trace time already
    jax.eval_shape(functools.partial(embed, *toy_encoder), wave, lengths)


def test_values_are_looked_at_where_there_are_any(unchecked, toy_encoder):
  wave = jnp.zeros((2, 800))
  with pytest.raises(ConfigError, match="wave is a list; expected an array"):
    embed(*toy_encoder, wave.tolist())
  for lengths in ([-1, 800], [800, 801]):
    with pytest.raises(ConfigError, match="the clips have 0 to 800 samples"):
      embed(*toy_encoder, wave, jnp.array(lengths))


def test_check_wave_takes_numpy_and_half_precision(unchecked, toy):
  check_wave(toy[0], np.zeros((1, 480), np.float64), None)
  check_wave(toy[0], jnp.zeros((1, 480), jnp.bfloat16), np.array([480]))


def test_jit_vmap_grad_and_export(toy_encoder, run):
  cfg, variables = toy_encoder
  wave = noise(4, 8000)
  plain = np.asarray(run(wave))
  # vmap over single clips: each is a batch of one, so the clamp sees one clip at a time.
  single = jax.jit(jax.vmap(lambda w: embed(cfg, variables, w[None])[0]))(wave)
  alone = np.concatenate([np.asarray(run(row[None])) for row in wave])
  np.testing.assert_allclose(single, alone, atol=2e-5)
  gradient = jax.jit(jax.grad(lambda w: jnp.mean(embed(cfg, variables, w) ** 2)))(wave)
  assert np.isfinite(gradient).all()
  assert np.abs(gradient).max() > 0
  exported = jax.export.export(jax.jit(functools.partial(embed, cfg)))(variables, wave)
  again = jax.export.deserialize(exported.serialize())
  np.testing.assert_allclose(jax.jit(again.call)(variables, wave), plain, atol=2e-6)


def test_an_autoencoders_variables_serve_as_an_encoders(toy, toy_encoder):
  jax.tree.map(np.testing.assert_array_equal, encoder_variables(toy[1]), toy_encoder[1])
  assert encoder_variables(toy_encoder[1]) is toy_encoder[1]


def test_bfloat16_stays_close_and_returns_float32(toy_encoder, run):
  cfg, variables = toy_encoder
  wave = noise(2, 8000)
  half = jax.jit(functools.partial(embed, cfg.with_compute(dtype="bfloat16"), variables))(wave)
  assert half.dtype == jnp.float32
  exact = np.asarray(run(wave))
  error = np.abs(half - exact)
  assert 1e-6 < error.mean() < 0.03 * exact.std()
