"""Small audio files with contents that tell them apart, and an index cache of the test's own."""

import pathlib

import numpy as np
import pytest
import soundfile

from pipelines import index


@pytest.fixture(autouse=True)
def index_cache(tmp_path_factory, monkeypatch) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("index")
  monkeypatch.setenv(index.CACHE_VARIABLE, str(folder))
  return folder


def tone(number: int, seconds: float, rate: int = 16_000, channels: int = 1) -> np.ndarray:
  """f32[samples, channels]: a pitch per number, and a ramp so that every stretch differs."""
  t = np.arange(round(seconds * rate)) / rate
  wave = (0.2 + 0.1 * t[:, None]) * np.sin(2 * np.pi * (100 + 37 * number) * t[:, None])
  return (wave * (1 + np.arange(channels)) / channels).astype(np.float32)


@pytest.fixture
def library(tmp_path):
  """Makes a folder of `count` recordings of different lengths: library("name", count, ...)."""

  def make(name: str, count: int, rate: int = 16_000, seconds: float = 0.1, suffix: str = ".flac"):
    folder = tmp_path / name
    folder.mkdir()
    for i in range(count):
      wave = tone(i, seconds * (0.6 + 0.3 * (i % 10)), rate)
      soundfile.write(folder / f"{i:03d}{suffix}", wave, rate)
    return folder

  return make
