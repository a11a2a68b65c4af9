"""Where parameters may start from, by name, and what travels with an exported encoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.config import DashengConfig, DecoderConfig, EncoderConfig
from dasheng_jax.mae import init_variables
from dasheng_jax.patches import sincos_table
from dasheng_jax.weights.files import write_encoder_file
from dasheng_jax.weights.load import read_encoder

TINY = DashengConfig(encoder=EncoderConfig(16, 1, 2), decoder=DecoderConfig(8, 1, 2))


def start(cfg):
  return jax.jit(functools.partial(init_variables, cfg))(jax.random.key(0))


def test_sincos_table_holds_sines_and_cosines_of_geometric_periods():
  table = np.asarray(sincos_table(jax.random.key(0), (5, 8)))
  rates = [1.0, 0.1, 0.01, 0.001]
  for position in range(5):
    angles = position * np.array(rates)
    expected = np.concatenate([np.sin(angles), np.cos(angles)])
    np.testing.assert_allclose(table[position], expected, atol=1e-6)


def test_neighbours_are_nearer_than_strangers():
  table = np.asarray(sincos_table(jax.random.key(0), (252, 64)))
  near = np.linalg.norm(table[100] - table[101])
  far = np.linalg.norm(table[100] - table[180])
  assert near < far / 2


@pytest.mark.parametrize(("kind", "decoder_is_zero"), [("released", True), ("sincos", False)])
def test_position_init_names_the_start_of_both_tables(kind, decoder_is_zero):
  cfg = dataclasses.replace(TINY, position_init=kind)
  params = start(cfg)["params"]
  time, decoder = params["encoder"]["positions"]["time"], params["decoder"]["pos_embed"]
  assert time.shape == (252, 16)
  assert decoder.shape == (253, 8)
  assert bool(jnp.all(decoder == 0)) is decoder_is_zero
  # Noise of 0.02 stays far below the amplitude of a sine.
  assert (float(jnp.max(jnp.abs(time))) > 0.5) is (kind == "sincos")


def test_depth_of_the_clamp_travels_with_an_exported_encoder(tmp_path):
  mel = dataclasses.replace(TINY.mel, top_db=60.0)
  cfg = dataclasses.replace(TINY, mel=mel)
  variables = start(cfg)
  encoder = {name: variables[name]["encoder"] for name in ("params", "batch_stats")}
  write_encoder_file(tmp_path / "e.safetensors", cfg, encoder)
  read, _ = read_encoder(tmp_path / "e.safetensors")
  assert read.mel.top_db == 60.0


def test_decoder_init_sets_the_scale_of_the_decoders_matrices_alone():
  released = start(TINY)["params"]
  cfg = dataclasses.replace(TINY, decoder_init="xavier")
  xavier = start(cfg)["params"]
  deviation = {name: float(jnp.std(p["decoder"]["output"]["kernel"])) for name, p in
               (("released", released), ("xavier", xavier))}  # fmt: skip
  assert deviation["released"] == pytest.approx(0.02, rel=0.1)
  assert deviation["xavier"] == pytest.approx((2 / (8 + 256)) ** 0.5, rel=0.1)
  same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), released["encoder"], xavier["encoder"])
  assert all(jax.tree.leaves(same))
