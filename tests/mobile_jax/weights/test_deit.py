"""A PaSST that begins with a DeiT's weights: resized positions, the grey kernel, a new head."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import mobile_jax
from dasheng_jax.errors import WeightsError
from mobile_jax.passt_config import PaSSTConfig
from mobile_jax.weights.deit import passt_state, resized

CFG = PaSSTConfig(classes=3, width=16, depth=1, heads=2, columns=20)
SIDE = 6


@pytest.fixture(scope="module")
def deit():
  """Of random numbers, in the names of the released DeiT."""
  rng = np.random.default_rng(0)
  width = CFG.width
  shapes = {
    "cls_token": (1, 1, width),
    "dist_token": (1, 1, width),
    "pos_embed": (1, 2 + SIDE**2, width),
    "patch_embed.proj.weight": (width, 3, 16, 16),
    "patch_embed.proj.bias": (width,),
    "norm.weight": (width,),
    "norm.bias": (width,),
    "head.weight": (7, width),
    "head.bias": (7,),
    "head_dist.weight": (7, width),
    "head_dist.bias": (7,),
  }
  for name in ("norm1", "norm2"):
    shapes |= {f"blocks.0.{name}.weight": (width,), f"blocks.0.{name}.bias": (width,)}
  for name, rows, columns in (
    ("attn.qkv", 3 * width, width),
    ("attn.proj", width, width),
    ("mlp.fc1", 4 * width, width),
    ("mlp.fc2", width, 4 * width),
  ):
    shapes |= {f"blocks.0.{name}.weight": (rows, columns), f"blocks.0.{name}.bias": (rows,)}
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_positions_and_kernel(deit):
  state = passt_state(deit, CFG)
  grid = deit["pos_embed"][0, 2:].reshape(SIDE, SIDE, -1)
  large = resized(grid, CFG.rows, CFG.columns)
  assert large.shape == (12, 20, 16)
  np.testing.assert_allclose(state["freq_new_pos_embed"][0, :, :, 0].T, large.mean(axis=1))
  np.testing.assert_allclose(state["time_new_pos_embed"][0, :, 0].T, large.mean(axis=0))
  np.testing.assert_array_equal(state["new_pos_embed"], deit["pos_embed"][:, :2])
  np.testing.assert_allclose(
    state["patch_embed.proj.weight"][:, 0], deit["patch_embed.proj.weight"].sum(axis=1)
  )


def test_taps_are_those_of_the_sharper_cubic():
  """Half way between two of four values: -3, 19, 19 and -3 thirty-seconds. Constants stay."""
  values = np.array([1.0, 10.0, 100.0, 1000.0], np.float32)[:, None, None]
  found = resized(np.concatenate([values, values], axis=2), 2, 1)[:, 0, 0]
  # Four become two: half way between the first two, with the first once more, and so at the end.
  weights = np.array([[16, 19, -3, 0], [0, -3, 19, 16]]) / 32
  np.testing.assert_allclose(found, weights @ values[:, 0, 0], rtol=1e-6)
  np.testing.assert_array_equal(resized(values, 4, 1), values)


@pytest.mark.parametrize("size", [(12, 99), (3, 5)])
def test_pytorch_resizes_alike(torch, size):
  grid = np.random.default_rng(1).normal(size=(24, 24, 4)).astype(np.float32)
  given = torch.from_numpy(grid.transpose(2, 0, 1)[None])
  want = torch.nn.functional.interpolate(given, size=size, mode="bicubic", align_corners=False)
  # PyTorch takes the places in float32, and is off by 5e-6 itself.
  np.testing.assert_allclose(resized(grid, *size), want[0].numpy().transpose(1, 2, 0), atol=1e-5)


def test_a_file_is_read_as_the_start_of_a_passt(deit, tmp_path):
  save_file(deit, tmp_path / "deit.safetensors")
  cfg, variables = mobile_jax.read_model(
    tmp_path / "deit.safetensors", config=CFG, classes=5, key=jax.random.key(1)
  )
  params = variables["params"]
  assert cfg.classes == 5
  np.testing.assert_array_equal(params["class_token"], deit["cls_token"][0, 0])
  np.testing.assert_array_equal(params["norm"]["scale"], deit["norm.weight"])
  assert params["head"]["logits"]["kernel"].shape == (16, 5)
  assert np.abs(params["head"]["logits"]["kernel"]).max() > 0
  np.testing.assert_array_equal(params["head"]["norm"]["scale"], 1.0)


def test_other_sizes_are_refused(deit):
  with pytest.raises(WeightsError, match="no weights of a distilled DeiT"):
    passt_state({name: x for name, x in deit.items() if name != "dist_token"}, CFG)
  for odd in (deit["pos_embed"][0], deit["pos_embed"][0, 0, 0], deit["pos_embed"].repeat(2, 0)):
    with pytest.raises(WeightsError, match="pos_embed has shape"):
      passt_state({**deit, "pos_embed": odd}, CFG)
  for name in ("pos_embed", "patch_embed.proj.weight"):
    with pytest.raises(WeightsError, match=f"{name} has shape"):
      passt_state({**deit, name: deit[name][:, :-1]}, PaSSTConfig(width=16, heads=2, patch=8))
