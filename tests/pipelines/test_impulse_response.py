"""Microphones by their impulse responses: recorded ones, who gets one, and what is no response."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import soundfile
from safetensors.numpy import load_file

from pipelines.errors import DataError
from pipelines.impulse_response import convolve_responses, draw_responses, read_responses
from pipelines.wave_augment import roll

RNG = np.random.default_rng(0)


def test_the_first_samples_of_the_full_convolution():
  wave = RNG.normal(size=(3, 500)).astype(np.float32)
  responses = RNG.normal(size=(2, 120)).astype(np.float32)
  which = jnp.array([1, -1, 0])
  heard = convolve_responses(jnp.asarray(wave), jnp.asarray(responses), which)
  for row, number in enumerate((1, None, 0)):
    want = wave[row]
    if number is not None:
      want = scipy.signal.convolve(wave[row].astype(float), responses[number])[:500]
    np.testing.assert_allclose(heard[row], want, atol=2e-5)


def test_recorded_responses(scene_fixtures):
  recorded = load_file(scene_fixtures / "dir_augment.safetensors")
  names = ("Altec_639.wav", "BBCmarconi_B.wav", "IR_AKGD12.wav")
  rows = [recorded[f"ir32k/{name}"][0] for name in names]
  responses = np.zeros((3, max(map(len, rows))), np.float32)
  for place, row in zip(responses, rows, strict=True):
    place[: len(row)] = row
  wave = jnp.asarray(np.repeat(recorded["wave"], 3, axis=0))
  heard = convolve_responses(wave, jnp.asarray(responses), jnp.arange(3))
  rolled = roll(heard, jnp.full(3, -1500))
  for i, name in enumerate(names):
    for got, want in ((heard, f"out/{name}"), (rolled, f"out_rolled/{name}")):
      np.testing.assert_allclose(got[i], recorded[want][0], atol=1e-5)


def test_files_are_resampled_as_recorded(scene_fixtures):
  recorded = load_file(scene_fixtures / "dir_augment.safetensors")
  found = read_responses(scene_fixtures / "dirs", 32_000)
  names = sorted(path.name for path in (scene_fixtures / "dirs").iterdir() if path.suffix == ".wav")
  assert len(found) == len(names) == 12
  for name in ("Altec_639.wav", "IR_AKGD12.wav"):
    want, got = recorded[f"ir32k/{name}"][0], found[names.index(name)]
    np.testing.assert_allclose(got[: len(want)], want, atol=1e-5)
    assert not got[len(want) :].any()


@pytest.mark.parametrize(("of", "share"), [("main_device", 0.6 * 0.5), ("all_devices", 0.6)])
def test_who_gets_one(of, share):
  main = jnp.arange(4000) % 2 == 0
  which = draw_responses(jax.random.key(0), main, 5, 0.6, of)
  assert np.mean(which >= 0) == pytest.approx(share, abs=0.03)
  assert set(np.unique(which)) == {-1, 0, 1, 2, 3, 4}
  if of == "main_device":
    assert not np.any(which[1::2] >= 0)
  off = draw_responses(jax.random.key(0), main, 5, 0.0, of)
  assert np.all(off == -1)
  with pytest.raises(ValueError, match="probability is 2"):
    draw_responses(jax.random.key(0), main, 5, 2.0)


def test_what_is_no_response(tmp_path):
  with pytest.raises(DataError, match="no audio file"):
    read_responses(tmp_path, 32_000)
  soundfile.write(tmp_path / "a.wav", np.zeros(100), 44_100)
  with pytest.raises(DataError, match="silent"):
    read_responses(tmp_path, 32_000)
  (tmp_path / "a.wav").write_bytes(b"nothing")
  with pytest.raises(DataError, match="'.*a.wav'"):
    read_responses(tmp_path, 32_000)
