"""Initial values are drawn as the released code draws them (reference text, section 6)."""

import functools

import jax
import numpy as np
import pytest

from dasheng_jax.config import DashengConfig, DecoderConfig, EncoderConfig
from dasheng_jax.mae import init_variables
from dasheng_jax.weights.table import flatten

WIDTH, NARROW = 96, 64


@pytest.fixture(scope="module")
def draw():
  cfg = DashengConfig(encoder=EncoderConfig(WIDTH, 2, 4), decoder=DecoderConfig(NARROW, 2, 4))
  return jax.jit(functools.partial(init_variables, cfg))


@pytest.fixture(scope="module")
def initial(draw):
  variables = draw(jax.random.key(0))
  return {path: np.asarray(value) for path, value in flatten(variables).items()}


def take(initial, part: str) -> dict[str, np.ndarray]:
  found = {path: value for path, value in initial.items() if part in path}
  assert found
  return found


def uniform(value: np.ndarray, bound: float) -> None:
  """Fills (-bound, bound) evenly: the extremes and the deviation say so."""
  assert np.abs(value).max() <= bound
  assert np.abs(value).max() > 0.97 * bound
  assert value.std() == pytest.approx(bound / 3**0.5, rel=2 * value.size**-0.5)
  assert abs(value.mean()) < 3 * bound * value.size**-0.5


@pytest.mark.parametrize(
  ("name", "fans"),
  [
    ("attn/qkv_kernel", 4 * WIDTH),  # the fused matrix: D in, 3 D out
    ("attn/out_kernel", 2 * WIDTH),
    ("mlp/up/kernel", 5 * WIDTH),
    ("mlp/down/kernel", 5 * WIDTH),
  ],
)
def test_encoder_weights_are_xavier_uniform(initial, name, fans):
  value = initial[f"params/encoder/blocks/layers/{name}"]
  uniform(value, (6 / fans) ** 0.5)
  assert (value[0] != value[1]).any()  # every layer has its own draw


def test_patch_projection_is_pytorchs_default(initial):
  uniform(initial["params/encoder/patch_embed/kernel"], 1 / 16)
  uniform(initial["params/encoder/patch_embed/bias"], 1 / 16)


def test_positions_and_decoder_weights_are_normal(initial):
  normal = {
    **take(initial, "encoder/positions/"),
    **{k: v for k, v in take(initial, "params/decoder").items() if "kernel" in k},
    **take(initial, "mask_token"),
  }
  assert len(normal) == 2 + 6 + 1
  for path, value in normal.items():
    spread = 0.02 * (1 + 0.06 * np.array([-1, 1]) * max(1, (1000 / value.size) ** 0.5))
    assert spread[0] < value.std() < spread[1], path
    assert np.abs(value).max() < 0.12, path


def test_the_rest_is_zero_or_one(initial):
  zero = ("pos_embed", "init_bn/mean", "init_bn/count", "bias")
  for path, value in initial.items():
    if path.endswith(("/scale", "init_bn/var")):
      assert (value == 1).all(), path
    elif path.endswith(zero) and "patch_embed" not in path:
      assert (value == 0).all(), path


def test_the_key_decides(draw, initial):
  same, other = (draw(jax.random.key(seed))["params"] for seed in (0, 1))
  for path, value in flatten(same).items():
    np.testing.assert_array_equal(value, initial["params/" + path])
  name = "params/encoder/patch_embed/kernel"
  assert (other["encoder"]["patch_embed"]["kernel"] != initial[name]).any()
