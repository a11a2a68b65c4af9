"""Mixup, gain, roll and MixStyle: what is drawn, and what becomes of clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pipelines import mixing, mixstyle, wave_augment
from tests.mobile_jax.fixtures import golden, quick

KEY = jax.random.key(3)
ROWS = 4000  # of every draw: Beta and a permutation compile for seconds, for each number of rows


@pytest.fixture(scope="module")
def waves():
  return np.random.default_rng(0).normal(0.1, 1.0, (5, 700)).astype(np.float32)


def test_a_clip_is_mostly_itself():
  share, partner = map(np.asarray, mixing.draw_mixing(KEY, ROWS, 0.3))
  assert share.min() >= 0.5
  assert share.max() <= 1
  assert sorted(partner.tolist()) == list(range(ROWS))
  # E max(l, 1 - l) = 12 times the integral of x^2 (1 - x) from 1/2 to 1, for Beta(2, 2).
  share, _ = mixing.draw_mixing(KEY, ROWS, 2.0)
  np.testing.assert_allclose(np.asarray(share).mean(), 11 / 16, atol=0.01)


def test_off_is_alone():
  share, _ = mixing.draw_mixing(KEY, ROWS, 0.0)
  assert (np.asarray(share) == 1).all()
  share, _ = mixing.draw_wave_mixing(KEY, ROWS, 0.0)
  assert (np.asarray(share) == 1).all()


def test_draws_are_functions_of_their_key():
  once, again, other = (
    jax.device_get(mixing.draw_mixing(key, ROWS, 0.3)) for key in (KEY, KEY, jax.random.key(4))
  )
  assert all((a == b).all() for a, b in zip(once, again, strict=True))
  assert not (once[0] == other[0]).all()


def test_half_of_the_waves_are_mixed():
  share, _ = mixing.draw_wave_mixing(KEY, ROWS)
  assert 0.47 < (np.asarray(share) < 1).mean() < 0.53


def test_waves_are_mixed_without_their_means(waves):
  share, partner = np.float32([0.6, 1.0, 0.8, 0.5, 1.0]), np.int32([3, 2, 0, 4, 1])
  mixed = np.asarray(quick(mixing.mix_waves)(*map(jnp.asarray, (waves, share, partner))))
  wide = waves.astype(np.float64)
  centred = wide - wide.mean(axis=1, keepdims=True)
  for row in range(5):
    part, other = float(share[row]), int(partner[row])
    want = part * centred[row] + (1 - part) * centred[other] if part < 1 else wide[row]
    np.testing.assert_allclose(mixed[row], want, atol=2e-6)
  assert (mixed[1] == waves[1]).all()


def test_mix_of_any_rank():
  share, partner = jnp.asarray([0.75, 1.0]), jnp.asarray([1, 0])
  mix = quick(mixing.mix)
  labels = mix(jnp.asarray(np.eye(2, dtype=np.float32)), share, partner)
  np.testing.assert_allclose(labels, [[0.75, 0.25], [0.0, 1.0]])
  cells = jnp.asarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
  np.testing.assert_allclose(mix(cells, share, partner)[0], 0.75 * cells[0] + 0.25 * cells[1])


def test_gain_is_in_whole_decibels():
  decibels = 20 * np.log10(np.asarray(wave_augment.draw_gain(KEY, ROWS)))
  np.testing.assert_allclose(decibels, np.round(decibels), atol=1e-4)
  assert sorted(set(np.round(decibels).astype(int))) == list(range(-12, 12))
  assert (np.asarray(wave_augment.draw_gain(KEY, 3, 0)) == 1).all()


def test_a_roll_loses_nothing(waves):
  shift = jnp.asarray([0, 1, -1, 650, -1401])
  rolled = np.asarray(quick(wave_augment.roll)(jnp.asarray(waves), shift))
  for row, by in enumerate(shift.tolist()):
    np.testing.assert_array_equal(rolled[row], np.roll(waves[row], by))
  drawn = wave_augment.draw_shift(KEY, 20_000, 3)
  assert sorted(set(drawn.tolist())) == list(range(-3, 4))
  assert (np.asarray(wave_augment.draw_shift(KEY, 5, 0)) == 0).all()


def test_mixstyle_is_the_recorded_one():
  recorded = golden("mobile_training")
  x = jnp.asarray(recorded["mixstyle/x"][:, 0])
  share = jnp.asarray(recorded["mixstyle/lam"].reshape(-1))
  partner = jnp.asarray(recorded["mixstyle/perm"].astype(np.int32))
  found = quick(mixstyle.mixstyle)(x, share, partner)
  np.testing.assert_allclose(found, recorded["mixstyle/out"][:, 0], atol=2e-6)


def test_no_gradient_through_statistics():
  """A clip that keeps its own is the same; with statistics held fixed, the slope is 1."""
  x = jax.random.normal(KEY, (3, 4, 9))
  share, partner = jnp.asarray(np.ones(3, np.float32)), jnp.asarray([1, 2, 0])
  slope = quick(jax.grad(lambda x: mixstyle.mixstyle(x, share, partner).sum()))(x)
  np.testing.assert_allclose(slope, np.ones_like(slope), rtol=1e-5)


def test_one_draw_says_whether_a_batch_is_mixed():
  draw = quick(lambda key: mixstyle.draw_mixstyle(key, 2, 0.5)[0])
  used = [draw(jax.random.key(i)) for i in range(60)]
  assert 15 < sum(map(int, used)) < 45
  never = quick(lambda key: mixstyle.draw_mixstyle(key, 2, 0.0)[0])
  assert not any(never(jax.random.key(i)) for i in range(60))


@pytest.mark.parametrize(
  ("draw", "message"),
  [
    (lambda: mixing.draw_mixing(KEY, 2, -0.1), "mixup alpha is -0.1"),
    (lambda: mixing.draw_wave_mixing(KEY, 2, 1.5), "mixed waves is 1.5"),
    (lambda: wave_augment.draw_gain(KEY, 2, -1), "gain is -1 dB"),
    (lambda: wave_augment.draw_shift(KEY, 2, -1), "roll is -1 samples"),
    (lambda: mixstyle.draw_mixstyle(KEY, 2, 1.2), "mixstyle_p is 1.2"),
  ],
)
def test_impossible_settings_are_named(draw, message):
  with pytest.raises(ValueError, match=message):
    draw()
