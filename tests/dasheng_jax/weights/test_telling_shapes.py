"""Shapes that tell a configuration: other ranks, gaps, collisions, more than any model has."""

import numpy as np
import pytest

from dasheng_jax.errors import ConfigError, WeightsError
from dasheng_jax.weights.files import EncoderFile, check_front_end, config_of, encoder_file
from dasheng_jax.weights.identify import identify
from dasheng_jax.weights.names import FRONT_END
from dasheng_jax.weights.positions import resize_time_table
from dasheng_jax.weights.tensors import Tensor, held
from tests.dasheng_jax.conftest import TINY


@pytest.fixture
def tensors(tiny_state):
  return {name: held(x) for name, x in tiny_state.items()}


def claim(*shape):
  """A tensor that is never read."""
  return Tensor(shape, "float32", lambda: pytest.fail("read"))


def found(path, tensors):
  return identify(path, {"model": tensors, "config": {"num_heads": 4}})


@pytest.mark.parametrize(
  ("name", "tensor", "message"),
  [
    ("outputlayer.1.weight", claim(), r"outputlayer.1.weight has shape \(\), where .* 2 axes"),
    ("decoder.mask_token", claim(), r"decoder.mask_token has shape \(\), where .* 3 axes"),
    ("blocks.0.mlp.fc1.weight", claim(), r"fc1.weight has shape \(\), where .* 2 axes"),
    ("patch_embed.proj.weight", claim(0, 1, 64, 4), r"shape \(0, 1, 64, 4\), where .* 4 axes"),
    ("patch_embed.proj.weight", claim(48, 1, 64, 1 << 40), r"1099511627776\), where"),
    ("time_pos_embed", claim(1, 48, 1, 0), r"shape \(1, 48, 1, 0\), where .* 4 axes"),
    ("time_pos_embed", claim(1, 48, 1, 1 << 45), r"35184372088832\), where .* 1 to 131,072"),
    ("blocks.999999.norm1.weight", claim(48), "blocks.999999 and 4 blocks .* without blocks.3"),
  ],
)
def test_ranks_and_numbers(tmp_path, tensors, name, tensor, message):
  with pytest.raises(WeightsError, match=message) as caught:
    found(tmp_path / "x.pt", {**tensors, name: tensor})
  assert "\n" not in str(caught.value)


def test_more_blocks_than_any_model_has(tensors):
  many = {f"blocks.{n}.norm1.bias": np.zeros(48, np.float32) for n in range(1001)}
  state = {name: tensors[name].read() for name in ("time_pos_embed", "patch_embed.proj.weight")}
  with pytest.raises(WeightsError, match=r"blocks.1000 and 1001 blocks in all"):
    config_of(EncoderFile({**state, **many}, {"num_heads": 4}, "x"))
  del many["blocks.1000.norm1.bias"]
  assert config_of(EncoderFile({**state, **many}, {"num_heads": 4}, "x")).encoder.depth == 1000


def test_two_names_that_become_one(tmp_path, tensors):
  prefixed = {f"encoder.{name}": x for name, x in tensors.items()}
  with pytest.raises(WeightsError, match=r"holds both norm.weight and encoder.norm.weight"):
    encoder_file(tmp_path / "x.pt", {**prefixed, "norm.weight": tensors["norm.weight"]})


def test_a_window_of_no_numbers(tiny_state):
  window = FRONT_END["window"]
  state = {**tiny_state, window: np.full_like(tiny_state[window], np.nan)}
  with pytest.raises(WeightsError, match="window is not Dasheng's front end"):
    check_front_end(EncoderFile(state, {}, "x"), TINY, "x")


def test_a_decoder_keeps_its_ratio(tmp_path, tensors):
  """Of the hidden layer to the width; a decoder of training may have another one than 4."""
  shapes = {"mask_token": (1, 1, 16), "blocks.0.mlp.fc1.weight": (32, 16)}
  decoder = {f"decoder.{name}": claim(*shape) for name, shape in shapes.items()}
  told = identify(
    tmp_path / "x.pt",
    {"model": {**tensors, **decoder}, "config": {"num_heads": 4}},
    decoder_heads=2,
  )
  assert (told.cfg.decoder.width, told.cfg.decoder.depth) == (16, 1)
  assert told.cfg.decoder.mlp_ratio == 2.0


def test_lengths_of_a_time_table():
  for rows in (0, -1, 100_001, 2_000_000_000):
    with pytest.raises(ConfigError, match=f"positions is {rows}; give 1 to 100,000"):
      resize_time_table(np.zeros((4, 2), np.float32), rows)
