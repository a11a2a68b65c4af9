import pathlib

import jax
import numpy as np
import pytest

from experiments.training.quantise import (
  Quantised,
  boxes,
  choose_box,
  dequantise,
  dynamic_map,
  from_codes,
  quantise,
  to_codes,
)

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden" / "adamw_8bit.npz"
SIGNED = pytest.mark.parametrize("signed", [True, False])


@SIGNED
def test_the_map_is_that_of_bitsandbytes(signed):
  with np.load(GOLDEN) as golden:
    published = golden["map_signed" if signed else "map_unsigned"]
  ours = dynamic_map(signed)
  assert ours.shape == (256,)
  np.testing.assert_array_max_ulp(ours, published, maxulp=2)


@SIGNED
def test_every_code_stands_for_its_value_and_back(signed):
  values, codes = dynamic_map(signed), np.arange(256, dtype=np.uint8)
  there = jax.jit(from_codes, static_argnums=1)(codes, signed)
  np.testing.assert_array_max_ulp(np.asarray(there), values, maxulp=2)
  np.testing.assert_array_equal(jax.jit(to_codes, static_argnums=1)(values, signed), codes)


@SIGNED
def test_the_nearest_value_is_chosen(signed):
  draw = np.random.default_rng(0)
  small = 10 ** draw.uniform(-8, 0, 100_000)
  y = np.concatenate([draw.uniform(0, 1, 100_000), small, [0, 1, 1e-30]])
  if signed:
    y = np.concatenate([y, -y])
  values, y = dynamic_map(signed).astype(np.float64), y.astype(np.float32)
  middles = (values[1:] + values[:-1]) / 2
  # Where rounding decides, either neighbour is right.
  clear = np.min(np.abs(middles - y[:, None].astype(np.float64)), axis=1) > 1e-6 * np.abs(y)
  assert np.mean(clear) > 0.999
  expected = np.searchsorted(middles, y)
  np.testing.assert_array_equal(
    jax.jit(to_codes, static_argnums=1)(y, signed)[clear], expected[clear]
  )


def test_each_box_has_its_own_scale():
  draw = np.random.default_rng(0)
  x = draw.standard_normal((10, 3, 40)).astype(np.float32)
  x[:4, 1, :16] *= 1e-6  # one box; in one with the others it would be lost
  x[4:8, 2, 16:32] = 0
  box = (4, 1, 16)
  codes, absmax = jax.jit(quantise, static_argnums=(1, 2))(x, box, True)
  assert absmax.shape == boxes(x.shape, box) == (3, 3, 3)
  parts = [
    np.s_[4 * i : 4 * i + 4, j, 16 * k : 16 * k + 16] for i, j, k in np.ndindex(absmax.shape)
  ]
  largest = [np.abs(x[part]).max() for part in parts]
  np.testing.assert_array_equal(absmax.ravel(), largest)
  scale = np.zeros_like(x)
  for part, value in zip(parts, largest, strict=True):
    scale[part] = value
  expected = jax.jit(to_codes, static_argnums=1)(x / np.where(scale > 0, scale, 1), True)
  np.testing.assert_array_equal(codes, expected)
  back = jax.jit(dequantise)(Quantised(codes, absmax, box, True))
  # Half a cell of the largest decade, or of the value's own.
  assert np.all(np.abs(back - x) <= 0.0071 * scale)
  np.testing.assert_array_equal(back[4:8, 2, 16:32], 0)


EMBED_MLP, QKV, OUT = (True, True), (True, False, True, False), (True, False, True)


@pytest.mark.parametrize(
  ("shape", "split", "box"),
  [
    ((1536, 3, 24, 64), QKV, (1, 1, 1, 64)),  # head by head
    ((24, 64, 1536), OUT, (1, 64, 1)),
    ((768, 3, 24, 32), QKV, (1, 1, 1, 32)),
    ((1280, 3, 16, 80), QKV, (1, 1, 1, 80)),
    ((1536, 6144), EMBED_MLP, (1, 256)),
    ((6144, 1536), EMBED_MLP, (256, 1)),
    ((768, 3072), EMBED_MLP, (1, 128)),  # 24 boxes: eight devices share them
    ((256, 1536), (False, True), (256, 1)),
    ((250, 1536), (False, True), (250, 1)),
    ((1000, 7), (False, False), (256, 1)),  # the last of four is cut short
    ((1001, 777), EMBED_MLP, (1, 256)),  # odd: nothing divides
  ],
)
def test_boxes_lie_along_axes_that_stay_whole(shape, split, box):
  assert choose_box(shape, split) == box
