"""The 32 kHz log-mel against recorded arrays of the published front end, float64, and its edges."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from pipelines import kaldi_mel
from pipelines.kaldi_mel import KALDI_MEL, KALDI_MEL_16K, SPEC_AUGMENT_MEL, KaldiMelConfig

# Normalised log-mel. The original departs from its own float64 value by 7e-6.
TOLERANCE = 5e-5
# A bank made under jit has corners up to a float32 step (2.4e-4 mel) from the recorded ones, and a
# bank in double precision has others again: a loud bin on the foot of a triangle shows it.
OTHER_CORNERS = 1e-4
SILENCE = -1.402585
GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "mobile_frontend.npz"
replace = dataclasses.replace


@pytest.fixture(scope="module")
def formulas():
  with np.load(GOLDEN) as arrays:
    return dict(arrays)


@pytest.fixture(scope="module")
def recorded(mobile_fixtures):
  """(arrays of the original, the two clips f32[2, 48000] that they were made of)."""
  names = [mobile_fixtures / "audio" / f"{name}.flac" for name in ("music", "typing")]
  clips = [soundfile.read(name, dtype="int16", stop=48_000)[0] for name in names]
  with np.load(mobile_fixtures / "mel_frontend.npz") as arrays:
    return dict(arrays), jnp.asarray(np.stack(clips).astype(np.float32) / 32768)


@functools.cache
def compiled(cfg: KaldiMelConfig):
  return jax.jit(lambda wave: kaldi_mel.log_mel_32k(wave, cfg))


@functools.cache
def compiled_draws(cfg: KaldiMelConfig):
  return jax.jit(lambda wave, *draws: kaldi_mel.log_mel_of_draws(wave, cfg, *draws))


def worst(ours, expected) -> float:
  ours = np.asarray(ours, np.float64)
  assert ours.shape == np.shape(expected)
  assert np.isfinite(ours).all()
  return float(np.abs(ours - expected).max())


def noise(clips: int, samples: int, seed: int = 0) -> jax.Array:
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(0, 0.1, (clips, samples)).astype(np.float32))


def float64_log_mel(wave: np.ndarray, cfg: KaldiMelConfig, fmin: float, fmax: float) -> np.ndarray:
  """The definition in double precision, written apart from the package: f64[f, frames]."""

  def to_mel(hz):
    return 1127 * np.log(1 + np.asarray(hz) / 700)

  x = wave.astype(np.float64)
  padded = np.pad(x[1:] - 0.97 * x[:-1], cfg.n_fft // 2, mode="reflect")
  window = np.zeros(cfg.n_fft)
  margin = (cfg.n_fft - cfg.win_length) // 2
  window[margin : margin + cfg.win_length] = np.hanning(cfg.win_length)
  frames = np.lib.stride_tricks.sliding_window_view(padded, cfg.n_fft)[:: cfg.hop_length]
  power = np.abs(np.fft.rfft(frames * window)) ** 2
  corners = np.linspace(to_mel(fmin), to_mel(fmax), cfg.mel_bins + 2)
  bins = to_mel(np.arange(cfg.n_fft // 2) * cfg.sample_rate / cfg.n_fft)
  bank = np.stack(
    [np.interp(bins, corners[i : i + 3], [0, 1, 0], left=0, right=0) for i in range(cfg.mel_bins)]
  )
  return (np.log(bank @ power[:, :-1].T + 1e-5) + 4.5) / 5


def test_banks_and_window_are_the_published_ones(formulas):
  traced = jax.jit(kaldi_mel.kaldi_filterbank, static_argnums=0)
  for name, cfg in {
    "n40_0_15000": KaldiMelConfig(mel_bins=40),
    "n128_9_14001": KaldiMelConfig(fmin=9.0, fmax=14_001.0),
    "n256_0_15000": KaldiMelConfig(mel_bins=256),
  }.items():
    expected = formulas[f"bank/{name}"]
    assert worst(kaldi_mel.eval_filterbank(cfg), expected) <= 1e-6
    ours = traced(cfg, jnp.float32(cfg.fmin), jnp.float32(cfg.high_hz))
    assert worst(ours, expected) <= 4e-5  # corners in float32: one step of 2.4e-4 mel
  assert worst(kaldi_mel.hann_window(800), formulas["stage/window"]) <= 3e-7


def test_256_bands_keep_their_13_empty_rows():
  fine = KaldiMelConfig(mel_bins=256)
  assert kaldi_mel.empty_filters(fine) == 13
  assert [kaldi_mel.empty_filters(KaldiMelConfig(mel_bins=n)) for n in (40, 64, 128)] == [0, 0, 0]
  out = np.asarray(compiled(fine)(noise(1, 3200)))
  assert out.shape == (1, 256, 10)
  dead = ~kaldi_mel.eval_filterbank(fine).any(axis=1)
  np.testing.assert_allclose(out[0, dead], SILENCE, atol=1e-6)
  assert (out[0, ~dead].max(axis=1) > SILENCE + 0.01).mean() > 0.95


def test_stages_of_recordings(recorded):
  arrays, wave = recorded
  emphasised = kaldi_mel.preemphasis(wave)
  assert emphasised.shape == (2, int(arrays["stage/preemph_len"]))
  assert worst(emphasised[:, :200], arrays["stage/preemph_first200"]) <= 1e-7


@pytest.mark.parametrize("transform", ["auto", "fft", "matmul"])
def test_log_mel_of_recordings(recorded, transform):
  arrays, wave = recorded
  ours = compiled(KaldiMelConfig(transform=transform))(wave)
  assert worst(ours, arrays["eval/default"]) <= TOLERANCE


VARIANTS = {
  **{f"hop{n}_every4": (KaldiMelConfig(hop_length=n), 4) for n in (160, 480, 640, 800)},
  **{f"nmels{n}_every8": (KaldiMelConfig(mel_bins=n), 8) for n in (40, 64, 256)},
  "fmin50_fmax14000_every8": (KaldiMelConfig(fmin=50.0, fmax=14_000.0), 8),
  "sr16k_win400_hop160_fft512_every8": (KALDI_MEL_16K, 8),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_recordings(recorded, name):
  arrays, wave = recorded
  cfg, every = VARIANTS[name]
  ours = compiled(cfg)(wave[:1])
  assert ours.shape[2] == cfg.frames(wave.shape[1])
  assert worst(ours[0, :, ::every], arrays[f"eval/{name}"]) <= TOLERANCE


def test_training_form_of_recordings(recorded):
  arrays, wave = recorded
  for a, b in ((0, 0), (9, 1999), (4, 500)):
    ours = compiled_draws(KALDI_MEL)(wave, jnp.float32(a), jnp.float32(16_000 - b))
    assert worst(ours[:, :, ::3], arrays[f"train/a{a}_b{b}_every3"]) <= OTHER_CORNERS
  cfg = KaldiMelConfig(freq_mask=48, time_mask=60)
  uniforms = jnp.asarray(arrays["train/mask_u"])
  ours = compiled_draws(cfg)(wave, jnp.float32(4), jnp.float32(15_500), uniforms)
  assert worst(ours, arrays["train/masked"]) <= OTHER_CORNERS


@pytest.mark.parametrize("transform", ["fft", "matmul"])
@pytest.mark.parametrize("base", [KALDI_MEL, KALDI_MEL_16K], ids=["32k", "16k"])
def test_log_mel_meets_float64(base, transform):
  """Also through the loop of the CPU: two clips of 8 s are two steps, the second one padded."""
  cfg = replace(base, transform=transform)
  wave = noise(2, 8 * base.sample_rate + 13) * jnp.asarray([[1.0], [0.01]])
  ours = compiled(cfg)(wave)
  assert 2 * cfg.frames(wave.shape[1]) > 1.5 * kaldi_mel.CPU_STEP_FRAMES
  for clip, row in zip(np.asarray(wave), ours, strict=True):
    assert worst(row, float64_log_mel(clip, cfg, cfg.fmin, cfg.high_hz)) <= OTHER_CORNERS


@pytest.mark.parametrize("hop", [100, 333, 800])
def test_any_hop_and_length_meet_float64(hop):
  cfg = KaldiMelConfig(hop_length=hop, mel_bins=33)
  wave = noise(1, 514 + hop)
  expected = float64_log_mel(np.asarray(wave)[0], cfg, 0, 15_000)
  assert worst(compiled(cfg)(wave)[0], expected) <= OTHER_CORNERS


def test_each_clip_may_have_its_own_band():
  wave, fmin, fmax = noise(2, 8000), jnp.asarray([0.0, 9.0]), jnp.asarray([16_000.0, 14_001.0])
  ours = compiled_draws(KALDI_MEL)(wave, fmin, fmax)
  for i in range(2):
    alone = compiled_draws(KALDI_MEL)(wave[i : i + 1], fmin[i], fmax[i])
    np.testing.assert_allclose(ours[i], alone[0], atol=1e-5)
    expected = float64_log_mel(np.asarray(wave)[i], KALDI_MEL, float(fmin[i]), float(fmax[i]))
    assert worst(ours[i], expected) <= OTHER_CORNERS


def test_draws_cover_the_published_range():
  keys = jax.random.split(jax.random.key(3), 4000)
  fmin, fmax = (np.asarray(x) for x in jax.jit(jax.vmap(lambda k: kaldi_mel.draw_band(k, 1)))(keys))
  assert set(fmin) == set(range(10))
  assert fmax.min() in range(14_001, 14_011)
  assert fmax.max() in range(15_990, 16_001)
  assert (fmax == fmax.round()).all()
  assert abs(np.corrcoef(fmin, fmax)[0, 1]) < 0.1
  fixed = KaldiMelConfig(fmin_range=1, fmax_range=1)
  assert fixed.high_hz == 16_000
  assert [float(x) for x in kaldi_mel.draw_band(keys[0], 1, fixed)] == [0, 16_000]
  clips = kaldi_mel.draw_band(keys[0], 6, KaldiMelConfig(perturb="clip"))
  assert len(set(np.asarray(clips[1]).tolist())) > 3


@functools.cache
def compiled_training(cfg: KaldiMelConfig):
  return jax.jit(lambda wave, key: kaldi_mel.perturbed_log_mel(wave, cfg, key))


def test_training_form_is_a_function_of_the_key():
  wave = jnp.broadcast_to(noise(1, 3200), (3, 3200))
  one, again, other = (
    np.asarray(compiled_training(KALDI_MEL)(wave, jax.random.key(i))) for i in (1, 1, 2)
  )
  np.testing.assert_array_equal(one, again)
  assert np.abs(one - other).max() > 1e-3
  # One draw for the batch: equal clips stay equal, up to the rounding of a batched product.
  np.testing.assert_allclose(one[0], one[2], atol=1e-5)
  apart = compiled_training(KaldiMelConfig(perturb="clip"))(wave, jax.random.key(1))
  assert np.abs(np.asarray(apart)[0] - np.asarray(apart)[2]).max() > 1e-3


def test_masks_of_the_training_form_hold_0_9():
  for sharing in ("clip", "batch"):
    cfg = replace(SPEC_AUGMENT_MEL, time_mask=8, mask_sharing=sharing)
    out = np.asarray(compiled_training(cfg)(noise(2, 3200), jax.random.key(7)))
    hidden = np.abs(out - 0.9) < 1e-6
    bands, frames = hidden.all(axis=2, keepdims=True), hidden.all(axis=1, keepdims=True)
    assert 0 < bands.sum() <= 96
    assert 0 < frames.sum() <= 16
    # Nothing else is hidden, but for a chance value.
    assert (hidden != (bands | frames)).sum() <= 2
    assert (bands[0] == bands[1]).all() == (sharing == "batch")


@pytest.mark.parametrize("hz", [437.5, 1000.0, 4000.0, 12_000.0])
def test_a_sine_peaks_in_its_band(hz):
  wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(16_000) / 32_000)
  out = np.asarray(compiled(KALDI_MEL)(jnp.asarray(wave[None], jnp.float32)))[0, :, 20]
  centres = np.linspace(0, 1127 * np.log(1 + 15_000 / 700), 130)[1:-1]
  nearest = np.abs(700 * (np.exp(centres / 1127) - 1) - hz).argmin()
  assert abs(int(out.argmax()) - int(nearest)) <= (1 if hz < 500 else 0)


def test_silence(formulas):
  for transform in ("auto", "matmul"):
    out = compiled(KaldiMelConfig(transform=transform))(jnp.zeros((1, 5120)))
    np.testing.assert_allclose(out, float(formulas["eval/zeros_value"]), atol=1e-6)
  np.testing.assert_allclose(out, SILENCE, atol=1e-6)


@pytest.mark.parametrize("transform", ["auto", "matmul"])
def test_nan_stays_in_its_clip(transform):
  wave = noise(3, 8000)
  clean = np.asarray(compiled(KaldiMelConfig(transform=transform))(wave))
  broken = np.asarray(compiled(KaldiMelConfig(transform=transform))(wave.at[1, -1].set(jnp.nan)))
  assert np.isnan(broken[1]).any()
  np.testing.assert_allclose(broken[[0, 2]], clean[[0, 2]], atol=1e-6)


def test_frame_counts():
  assert KALDI_MEL.frames(320_000) == 1000
  assert KALDI_MEL.frames(5120) == 16
  assert KALDI_MEL_16K.high_hz == 7000
  for samples in (514, 640, 641, 32_001):
    for cfg in (KALDI_MEL, KaldiMelConfig(hop_length=800, mel_bins=40)):
      out = jax.eval_shape(compiled(cfg), jax.ShapeDtypeStruct((2, samples), jnp.float32))
      assert out.shape == (2, cfg.mel_bins, cfg.frames(samples))


def test_vmap_and_gradients():
  wave = noise(2, 2000)
  batched = jax.vmap(lambda x: kaldi_mel.log_mel_32k(x[None])[0])(wave)
  np.testing.assert_allclose(batched, compiled(KALDI_MEL)(wave), atol=1e-5)

  @jax.jit
  def mean(wave, fmax):
    return kaldi_mel.log_mel_of_draws(wave, KALDI_MEL, jnp.float32(0), fmax).mean()

  slopes = jax.grad(mean, (0, 1))(wave, jnp.float32(15_000))
  direction = noise(2, 2000, seed=1)
  step = 2e-2
  difference = mean(wave + step * direction, 15_000.0) - mean(wave - step * direction, 15_000.0)
  np.testing.assert_allclose(jnp.vdot(slopes[0], direction), difference / (2 * step), rtol=0.02)
  difference = mean(wave, 15_002.0) - mean(wave, 14_998.0)  # triangles have kinks: a short step
  np.testing.assert_allclose(slopes[1], difference / 4, rtol=0.05)


def test_gradients_through_the_loop_of_the_cpu():
  wave = noise(2, 250_000)
  whole = replace(KALDI_MEL, transform="matmul")  # which has no loop
  ours, other = (
    jax.jit(jax.grad(lambda x, cfg=cfg: kaldi_mel.log_mel_32k(x, cfg).mean()))(wave)
    for cfg in (KALDI_MEL, whole)
  )
  assert float(jnp.linalg.norm(ours - other)) < 1e-3 * float(jnp.linalg.norm(other))


def test_too_short_says_how_long():
  message = r"513 samples.*at least 514 \(16 ms\): pad it with zeros"
  with pytest.raises(ValueError, match=message):
    kaldi_mel.log_mel_32k(jnp.zeros((1, 513)))
  with pytest.raises(ValueError, match=message):
    kaldi_mel.perturbed_log_mel(jnp.zeros((1, 513)), KALDI_MEL, jax.random.key(0))


def test_draws_beyond_the_spectrum_are_refused():
  cfg = KaldiMelConfig(fmax=16_000.0)
  assert cfg.high_hz == 16_000  # fine in evaluation mode
  with pytest.raises(ValueError, match="lower mel.fmax or mel.fmax_range"):
    kaldi_mel.draw_band(jax.random.key(0), 1, cfg)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"transform": "dct"}, "mel.transform is 'dct'"),
    ({"fmax": 17_000.0}, r"must lie within 0\.\.16000"),
    ({"win_length": 1200}, "longer than mel.n_fft"),
    ({"win_length": 801}, "must be even"),
    ({"fmax_range": 0}, "set 1 for no perturbation"),
    ({"perturb": "row"}, "mel.perturb is 'row'"),
    ({"freq_mask": -1}, "freq_mask is -1"),
    ({"mask_sharing": "row"}, "mask_sharing is 'row'"),
    ({"hop_length": 0}, "mel.hop_length is 0"),
  ],
)
def test_bad_settings_are_named(unchecked, fields, message):
  with pytest.raises(ValueError, match=message):
    KaldiMelConfig(**fields)
