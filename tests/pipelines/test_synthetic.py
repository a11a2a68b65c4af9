"""The synthetic corpus: pure in (seed, index), in range, and structured as its labels say."""

import subprocess
import sys

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.sources.base import Source
from pipelines.synthesis import notes, parts, room
from pipelines.synthetic import CLASSES, SyntheticSource, render

SECONDS = 2.0


@pytest.mark.parametrize("index", range(len(CLASSES)))
def test_every_class_makes_finite_audio_of_the_length_asked(index):
  for clip in (index, index + 10 * len(CLASSES)):
    wave, label = render(clip, seed=3, seconds=SECONDS)
    assert wave.shape == (32_000,)
    assert wave.dtype == np.float32
    assert CLASSES[label] == CLASSES[index]
    assert 10 ** (room.PEAK_DB[0] / 20) * 0.99 < np.abs(wave).max() <= 1.0
    # No long digital silence: the background never stops.
    assert np.abs(wave[: 1600 * 20].reshape(-1, 1600)).max(axis=1).min() > 0


@pytest.mark.parametrize("index", range(len(CLASSES)))
@pytest.mark.parametrize(("seconds", "rate"), [(0.5, 8_000), (1.3, 44_100)])
def test_other_lengths_and_rates(index, seconds, rate):
  wave, _ = render(index, seconds=seconds, sample_rate=rate)
  assert wave.shape == (round(seconds * rate),)
  assert np.isfinite(wave).all()
  assert np.abs(wave).max() > 0.01


def test_a_clip_depends_on_seed_and_index_alone():
  alone, _ = render(17, seed=5, seconds=SECONDS)
  for i in range(12, 17):
    render(i, seed=5, seconds=SECONDS)
  np.random.seed(0)  # noqa: NPY002 - the global state must not matter
  again, _ = render(17, seed=5, seconds=SECONDS)
  np.testing.assert_array_equal(alone, again)
  assert np.abs(alone - render(17, seed=6, seconds=SECONDS)[0]).max() > 1e-3
  assert np.abs(alone - render(27, seed=5, seconds=SECONDS)[0]).max() > 1e-3


def test_another_process_makes_the_same_clip_without_jax_or_tensorflow():
  program = (
    "import sys; from pipelines.synthetic import render; "
    "sys.stdout.buffer.write(render(4, seed=9, seconds=1.0)[0].tobytes()); "
    "sys.exit(any(m in sys.modules for m in ('tensorflow', 'jax', 'torch')))"
  )
  out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
  np.testing.assert_array_equal(np.frombuffer(out, np.float32), render(4, seed=9, seconds=1.0)[0])


def test_source_protocol():
  source = SyntheticSource(clips=25, seconds=SECONDS, seed=2)
  assert isinstance(source, Source)
  assert len(source) == len(source.ids) == len(set(source.ids)) == 25
  assert source.ids[13] == f"synthetic/000013-{CLASSES[3]}"
  assert source.frames.tolist() == [32_000] * 25
  assert source.rates.tolist() == [16_000] * 25
  assert [source.classes[k] for k in source.labels[:10]] == list(CLASSES)
  whole, rate = source.read(13, 0, 32_000)
  assert (whole.shape, rate) == ((32_000, 1), 16_000)
  np.testing.assert_array_equal(whole[:, 0], render(13, 2, SECONDS)[0])
  np.testing.assert_array_equal(source.read(13, 500, 900)[0], whole[500:900])
  assert source.read(13, 31_000, 40_000)[0].shape == (1_000, 1)


@pytest.mark.parametrize(
  ("call", "words"),
  [
    (lambda: render(-1), "index -1"),
    (lambda: render(0, -2), "seed -2"),
    (lambda: render(0, seconds=0.1), "seconds=0.1"),
    (lambda: render(0, seconds=float("nan")), "seconds=nan"),
    (lambda: render(0, sample_rate=4000), "sample_rate=4000"),
    (lambda: SyntheticSource(clips=0), "clips=0"),
  ],
)
def test_errors_name_the_argument(call, words):
  with pytest.raises(DataError, match=words) as caught:
    call()
  assert "\n" not in str(caught.value)


def test_modes_equal_the_plain_sum():
  frequencies, weights, t60 = (
    np.array([440.0, 1000.5, 7900.0]),
    np.array([1, 0.5, 9]),
    np.array([0.5, 0.2, 1]),
  )
  time = np.arange(5000) / 16_000
  plain = sum(
    w * np.exp(-parts.LN_60_DB / t * time) * np.sin(2 * np.pi * f * time)
    for f, w, t in zip(
      frequencies[:2], weights, t60, strict=False
    )  # 7900 Hz is above 0.45 of the rate
  )
  np.testing.assert_allclose(parts.modes(5000, 16_000, frequencies, weights, t60), plain, atol=1e-5)


def test_plucked_string_equals_the_delay_loop():
  """The frequency-domain string is the classical loop over samples."""
  period, loss, brightness, size = 100, 0.9, 0.7, 16_384
  x = np.zeros(size, np.float32)
  x[:period] = np.random.default_rng(0).uniform(-1, 1, period)
  y = x.astype(np.float64)
  y[period] += loss * brightness * y[0]
  for n in range(period + 1, size):
    y[n] += loss * (brightness * y[n - period] + (1 - brightness) * y[n - period - 1])
  fast = notes.string(x[None], np.array([[period]]), np.array([[loss]]), brightness)
  np.testing.assert_allclose(fast[0], y, atol=2e-5)


def test_resonance_has_unit_peak_and_blocks_the_rest():
  time = np.arange(16_000) / 16_000
  at_peak = parts.ring(np.sin(2 * np.pi * 1000 * time).astype(np.float32), 1000, 100, 16_000)
  far_off = parts.ring(np.sin(2 * np.pi * 4000 * time).astype(np.float32), 1000, 100, 16_000)
  assert np.abs(at_peak[8000:]).max() == pytest.approx(1.0, abs=0.02)
  assert np.abs(far_off[8000:]).max() < 0.05


def test_ramp_meets_its_points():
  curve = parts.ramp(np.array([0.0, 2.0, -1.0]), 2000)
  assert curve[[0, 500, 1000, 1500]].tolist() == pytest.approx([0, 1, 2, 0.5])


def test_onsets_fall_inside_even_in_short_clips():
  rng = np.random.default_rng(0)
  for samples in (8_000, 160_000):
    for gap in (0.1, 3.0):
      at = parts.onsets(rng, samples, 16_000, gap, 0.5)
      assert at.size >= 1
      assert 0 <= at[0] <= samples // 2
      assert (np.diff(at) > 0).all()
      assert at[-1] < samples
