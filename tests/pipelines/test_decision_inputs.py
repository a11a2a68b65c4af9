"""What the weakly supervised taggers hear: recorded log-mels, masks, pairs of clips, waves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from mobile_jax.decision_config import DECISION_MEL
from pipelines import mel, mixing, spec_masks, wave_augment

KEY = jax.random.key(5)
WAVES = np.random.default_rng(0).normal(0, 0.1, (6, 900)).astype(np.float32)


@pytest.fixture(scope="module")
def recorded(tagging_fixtures):
  """recorded(name) -> arrays."""
  return lambda name: load_file(tagging_fixtures / f"{name}.safetensors")


def test_recorded_log_mels(recorded):
  """The clamp looks at the whole batch: beside a loud clip the floor of a quiet one is higher."""
  arrays = recorded("mel64_frontend")
  np.testing.assert_allclose(mel.mel_filterbank(DECISION_MEL), arrays["mel_fb"], atol=2e-6)
  alone = dataclasses.replace(DECISION_MEL, clamp="sample")
  quiet = jnp.asarray(arrays["wave_batch"][1:])
  cases = (
    (arrays["wave_single"], DECISION_MEL, arrays["logmel_single"]),
    (arrays["wave_batch"], DECISION_MEL, arrays["logmel_batch"]),
    (quiet, DECISION_MEL, arrays["logmel_batch_item1_alone"]),
  )
  for wave, cfg, want in cases:
    ours = np.asarray(jax.jit(lambda w, cfg=cfg: mel.log_mel(w, cfg))(jnp.asarray(wave)))
    assert ours.shape == want.shape
    error = np.abs(ours - want)
    far = want.max(axis=1, keepdims=True) - want >= 80
    assert error[~far].max() <= 2e-3
    assert error.max() <= 0.3
  batch = np.asarray(mel.log_mel(jnp.asarray(arrays["wave_batch"]), alone))
  np.testing.assert_allclose(batch[1:], arrays["logmel_batch_item1_alone"], atol=2e-3)
  assert arrays["logmel_batch"][1].min() - batch[1].min() > 20


def test_recorded_masks(recorded):
  """One pair of masks for the batch, filled with 0 dB."""
  arrays = recorded("specaug")
  x = jnp.asarray(arrays["in"])
  freq, time = spec_masks.DECISION_MASKS
  uniforms = []
  for cells, size, parameter in (
    (arrays["freq_rows"], x.shape[1], freq),
    (arrays["time_cols"], x.shape[2], time),
  ):
    width = (len(cells) + 0.5) / parameter
    uniforms += [width, (int(cells[0]) + 0.5) / (size - width * parameter)]
  drawn = jnp.broadcast_to(jnp.asarray(uniforms)[:, None], (4, len(x)))
  np.testing.assert_array_equal(spec_masks.apply_masks(x, drawn, freq, time), arrays["out"])


def test_recorded_pairs(recorded):
  arrays = recorded("mixup")
  share = jnp.asarray(arrays["lam"])
  for name in ("x", "y"):
    mixed = mixing.mix_pairs(jnp.asarray(arrays[name]), share)
    np.testing.assert_allclose(mixed, arrays[f"{name}_out"], atol=1e-6, rtol=0)


def test_recorded_waves(recorded):
  arrays = recorded("wave_augment")
  wave = jnp.asarray(arrays["in"][:, 0])
  flipped = jnp.asarray([-1.0, -1.0])[:, None] * wave
  np.testing.assert_array_equal(flipped, arrays["polarity/out"][:, 0])
  louder = jnp.asarray(arrays["gain/gain_factors"][:, 0]) * wave
  np.testing.assert_allclose(louder, arrays["gain/out"][:, 0], rtol=1e-6)
  shift = jnp.asarray(arrays["shift/num_samples_to_shift"])
  np.testing.assert_array_equal(wave_augment.roll(wave, shift), arrays["shift/out"][:, 0])


def test_pairs_halve_a_batch():
  share = mixing.draw_pair_mixing(KEY, 6)
  assert share.shape == (3,)
  mixed = mixing.mix_pairs(jnp.asarray(WAVES), share)
  want = [s * a + (1 - s) * b for s, a, b in zip(share, WAVES[::2], WAVES[1::2], strict=True)]
  np.testing.assert_allclose(mixed, np.stack(want), atol=1e-6)
  odd = jnp.asarray(WAVES[:5])
  np.testing.assert_array_equal(mixing.mix_pairs(odd, mixing.draw_pair_mixing(KEY, 5)), odd)
  # Beta(1, 1): any share is equally likely.
  drawn = np.sort(mixing.draw_pair_mixing(KEY, 8000))
  np.testing.assert_allclose(drawn, np.linspace(0, 1, 4000), atol=0.03)
  with pytest.raises(ValueError, match="mixup alpha is 0"):
    mixing.draw_pair_mixing(KEY, 6, 0.0)


def test_each_change_meets_half_of_the_clips():
  rows = 8000
  polarity = wave_augment.draw_polarity(KEY, rows)
  assert set(np.unique(polarity)) == {-1, 1}
  assert 0.48 < (polarity < 0).mean() < 0.52
  decibels = 20 * np.log10(np.asarray(wave_augment.draw_level(KEY, rows)))
  assert 0.48 < (decibels != 0).mean() < 0.52
  assert -18 <= decibels.min() < -17.9
  assert 5.9 < decibels.max() <= 6.0001
  for samples in (9, 10):
    shift = np.asarray(wave_augment.draw_half_shift(KEY, rows, samples))
    assert (shift.min(), shift.max()) == (-(samples // 2), samples // 2)
    assert 0.48 < (shift != 0).mean() * (1 + 1 / (samples - 1)) < 0.58


def test_waves_are_changed_one_by_one():
  wave = jnp.asarray(WAVES)
  np.testing.assert_array_equal(wave_augment.augment_half(wave, KEY, chance=0.0), wave)
  changed = np.asarray(wave_augment.augment_half(wave, KEY, chance=1.0))
  for before, after in zip(WAVES, changed, strict=True):
    # A roll and a factor are all there is: the strongest shift explains the whole clip.
    spectrum = np.fft.irfft(np.fft.rfft(after) * np.conj(np.fft.rfft(before)), len(before))
    rolled = np.roll(before, np.argmax(np.abs(spectrum)))
    factor = after @ rolled / (rolled @ rolled)
    np.testing.assert_allclose(after, factor * rolled, atol=1e-6)
    assert -2 <= factor <= -0.125
  with pytest.raises(ValueError, match="chance of a change is 1.5"):
    wave_augment.augment_half(wave, KEY, chance=1.5)
  with pytest.raises(ValueError, match="lower one first"):
    wave_augment.draw_level(KEY, 2, decibels=(6.0, -18.0))
