"""Recordings from arguments: which files, and the same samples however they are read."""

import os

import numpy as np
import pytest
import soundfile

from experiments.audio_files import audio_paths, read_blocks, read_wave
from experiments.training.errors import UsageError
from pipelines import decode
from pipelines.errors import BadAudio
from tests.experiments.tag_models import noise, write


def test_folders_are_searched_and_files_are_taken_as_they_are(tmp_path):
  for name in ("b/2.WAV", "b/1.flac", "a.wav", ".hidden/x.wav", "b/notes.txt", "b/.x.wav"):
    write(tmp_path / name, noise(0.01), format="WAV")
  os.symlink(tmp_path / "b", tmp_path / "b" / "again")
  found = [path.relative_to(tmp_path).as_posix() for path in audio_paths([str(tmp_path)])]
  assert found == ["a.wav", "b/1.flac", "b/2.WAV"]
  odd = tmp_path / "b" / "notes.txt"
  assert audio_paths([odd, tmp_path / "gone.wav", odd]) == [odd, tmp_path / "gone.wav"]


def test_nothing_named_or_nothing_there(tmp_path):
  with pytest.raises(UsageError, match="name at least one"):
    audio_paths([])
  with pytest.raises(UsageError, match="holds no audio"):
    audio_paths([tmp_path])


@pytest.mark.parametrize("rate", [8_000, 32_000, 44_100])
def test_blocks_make_up_the_recording_resampled_as_a_whole(tmp_path, rate):
  wave = noise(1.7, rate=rate, channels=2)
  path = write(tmp_path / "x.wav", wave, rate, subtype="FLOAT")
  blocks = list(read_blocks(path, 32_000, block_seconds=0.25))
  assert len(blocks) > 5
  whole = decode.resample(decode.mono(wave), rate, 32_000)
  np.testing.assert_array_equal(np.concatenate(blocks), whole)
  np.testing.assert_array_equal(read_wave(path, 32_000), whole)


def test_unusable_files_are_named_in_one_line(tmp_path):
  whole = write(tmp_path / "whole.flac", noise(2.0)).read_bytes()
  nan = noise(0.1)
  nan[7] = np.nan
  write(tmp_path / "nan.wav", nan, subtype="FLOAT")
  write(tmp_path / "silent.wav", nan[:0])
  (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
  (tmp_path / "empty.wav").touch()
  (tmp_path / "text.wav").write_text("no audio at all")
  for name, reason in {
    "nan.wav": "NaN",
    "silent.wav": "holds no samples",
    "cut.flac": "cannot be decoded|truncated",
    "empty.wav": "empty file",
    "text.wav": "cannot be decoded",
    "whole.flax": "absent; did you mean .*whole.flac",
  }.items():
    with pytest.raises(BadAudio, match=reason) as error:
      read_wave(tmp_path / name, 32_000)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(error.value)


def test_a_lossy_recording_may_end_a_little_early(tmp_path, monkeypatch):
  path = write(tmp_path / "x.wav", noise(1.0))
  monkeypatch.setattr(decode, "header", lambda _: (32_000 + 4_000, 32_000))
  assert len(read_wave(path, 32_000)) == 32_000
  monkeypatch.setattr(decode, "header", lambda _: (32_000 + 5_000, 32_000))
  with pytest.raises(BadAudio, match="truncated"):
    read_wave(path, 32_000)
  assert soundfile.info(path).frames == 32_000
