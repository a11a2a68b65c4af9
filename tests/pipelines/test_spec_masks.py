"""Frequency and time masks: recorded ranges, where they fall, and what they are functions of."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pipelines import spec_masks

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "mobile_frontend.npz"


@pytest.fixture(scope="module")
def formulas():
  with np.load(GOLDEN) as arrays:
    return dict(arrays)


def ones(clips: int = 2, bands: int = 128, frames: int = 150) -> jax.Array:
  return jnp.ones((clips, bands, frames))


apply_masks = jax.jit(spec_masks.apply_masks, static_argnums=(2, 3))
masked = jax.jit(spec_masks.spec_masks, static_argnums=(2, 3, 4))


def test_ranges_are_the_recorded_ones(formulas):
  u = jnp.asarray(formulas["train/mask_u"])
  for pair, parameter, size, name in ((u[:2], 48, 128, "freq"), (u[2:], 60, 150, "time")):
    ours = jnp.stack(spec_masks.mask_range(pair[0], pair[1], parameter, size), axis=1)
    np.testing.assert_array_equal(ours, formulas[f"train/masked_{name}_ranges"])


def test_only_the_ranges_are_filled(formulas):
  out = np.asarray(apply_masks(ones(), jnp.asarray(formulas["train/mask_u"]), 48, 60))
  for clip in range(2):
    expected = np.ones((128, 150))
    bands, frames = (formulas[f"train/masked_{name}_ranges"][clip] for name in ("freq", "time"))
    expected[slice(*bands)] = 0
    expected[:, slice(*frames)] = 0
    np.testing.assert_array_equal(out[clip], expected)


def test_start_uses_the_width_before_rounding():
  # v = 2.9 cells from floor(0.5 * (10 - 2.9)) = 3 on; a width rounded first would start at 4.
  first, stop = spec_masks.mask_range(jnp.asarray([0.29]), jnp.asarray([0.5]), 10, 10)
  assert (int(first[0]), int(stop[0])) == (3, 5)


def test_masks_stay_inside_and_reach_both_ends():
  u = spec_masks.mask_uniforms(jax.random.key(0), 5000)
  first, stop = (np.asarray(x) for x in spec_masks.mask_range(u[0], u[1], 48, 128))
  assert first.min() == 0
  assert stop.max() in (127, 128)
  width = stop - first
  assert set(width) == set(range(48))
  assert abs(width.mean() - 23.5) < 1


def test_sharing_is_named():
  key = jax.random.key(1)
  clip, batch = (spec_masks.mask_uniforms(key, 4, sharing) for sharing in ("clip", "batch"))
  assert len(np.unique(clip)) == 16
  assert len(np.unique(batch)) == 4
  apart = np.asarray(masked(ones(4), key, 48, 60))
  shared = np.asarray(masked(ones(4), key, 48, 60, "batch"))
  assert len({row.tobytes() for row in apart}) == 4
  assert len({row.tobytes() for row in shared}) == 1


def test_masks_are_a_function_of_the_key():
  one, again, other = (np.asarray(masked(ones(), jax.random.key(i), 48, 60)) for i in (5, 5, 6))
  np.testing.assert_array_equal(one, again)
  assert (one != other).any()


def test_zero_switches_a_mask_off():
  key = jax.random.key(2)
  np.testing.assert_array_equal(spec_masks.spec_masks(ones(), key, 0, 0), ones())
  bands = np.asarray(masked(ones(), key, 48, 0))
  frames = np.asarray(masked(ones(), key, 0, 60))
  assert (bands == bands[:, :, :1]).all()
  assert (frames == frames[:, :1]).all()
  assert bands.min() == frames.min() == 0


def test_fill_value_and_gradient():
  u = jnp.full((4, 2), 0.5)
  assert float(spec_masks.apply_masks(ones(), u, 48, 60, fill=-3.0).min()) == -3
  slope = jax.grad(lambda x: apply_masks(x, u, 48, 60).sum())(ones())
  np.testing.assert_array_equal(slope, apply_masks(ones(), u, 48, 60))


def test_hidden_nan_is_filled():
  u = jnp.full((4, 2), 0.5)
  out = spec_masks.apply_masks(jnp.full((2, 8, 16), jnp.nan), u, 8, 0)
  first, stop = (int(x[0]) for x in spec_masks.mask_range(u[0], u[1], 8, 8))
  assert stop > first
  assert (np.asarray(out)[:, first:stop] == 0).all()


def test_a_mask_may_hide_a_whole_short_clip():
  out = spec_masks.apply_masks(ones(1, 4, 16), jnp.asarray([[0.0], [0], [0.99], [0.5]]), 0, 192)
  assert float(out.max()) == 0


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((-1, 0, "clip"), "freq_mask is -1"),
    ((0, -2, "clip"), "time_mask is -2"),
    ((0, 0, "all"), "mask_sharing is 'all'"),
  ],
)
def test_bad_settings_are_named(unchecked, arguments, message):
  with pytest.raises(ValueError, match=message):
    spec_masks.check_masks(*arguments)
