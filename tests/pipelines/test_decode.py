import numpy as np
import pytest
import soundfile

from pipelines import DataConfig, crops, decode
from pipelines.errors import BadAudio
from pipelines.sources import open_source
from tests.pipelines.conftest import tone


@pytest.fixture
def recording(tmp_path):
  def make(rate: int, seconds: float = 1.5, channels: int = 1):
    folder = tmp_path / f"{rate}-{channels}"
    folder.mkdir()
    soundfile.write(folder / "x.wav", tone(4, seconds, rate, channels), rate, subtype="FLOAT")
    return open_source(str(folder), DataConfig())

  return make


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_clip_is_a_stretch_of_the_whole(recording, rate, channels):
  source = recording(rate, channels=channels)
  frames = int(source.frames[0])
  whole = decode.resample(decode.mono(source.read(0, 0, frames)[0]), rate, 16_000)
  assert abs(len(whole) - 24_000) <= 1
  for number in (0, 1, 2):
    out = np.full(8000, 9.0, np.float32)
    start = number * 8000 * rate // 16_000
    assert decode.fill(out, source, 0, start, rate, frames, 16_000) == 8000
    shift = start * 16_000 / rate - number * 8000  # part of a sample, where rates do not fit
    if shift == 0:
      # the resampler's own ripple, where 20 ms of margin end
      assert np.abs(out - whole[number * 8000 :][:8000]).max() < 2e-3


def test_resampling_keeps_time_and_level(recording):
  source = recording(44_100)
  out = np.empty(16_000, np.float32)
  decode.fill(out, source, 0, 0, 44_100, int(source.frames[0]), 16_000)
  assert np.abs(out - tone(4, 1.0)[:, 0])[100:-100].max() < 2e-3


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_short_recording_is_padded(recording, rate):
  source = recording(rate, seconds=0.3)
  out = np.full(8000, 9.0, np.float32)
  valid = decode.fill(out, source, 0, 0, rate, int(source.frames[0]), 16_000)
  assert abs(valid - 4800) <= 1
  assert not out[valid:].any()
  assert out[valid - 50 : valid].any()


def test_header_of_a_stream(tmp_path):
  with pytest.raises(BadAudio, match="absent"):
    decode.header(str(tmp_path / "none.wav"))
  with pytest.raises(BadAudio, match="empty file"):
    decode.header(b"")
  assert decode.header(decode.Samples(np.zeros((7, 1), np.float32), 8000)) == (7, 8000)


def test_not_finite():
  decode.check_finite(np.full(100, 3e38, np.float32))  # overflows a sum, and is finite
  for bad in (np.nan, np.inf, -np.inf):
    with pytest.raises(BadAudio, match="1 of 3 samples"):
      decode.check_finite(np.array([0, bad, 1], np.float32))


def test_clip_counts():
  cfg = DataConfig(crop_seconds=10.0)
  frames = np.array([1, 159_999, 160_000, 319_999, 320_000, 441_000, 440_999])
  rates = np.array([16_000] * 5 + [44_100] * 2, np.int32)
  assert crops.clip_counts(frames, rates, cfg).tolist() == [1, 1, 1, 1, 2, 1, 1]


def test_clip_starts():
  cfg = DataConfig(crop_seconds=1.0)
  assert [crops.clip_start(cfg, 0, 0, 9, k, 99_999, 44_100) for k in (0, 1)] == [0, 44_100]
  cfg = DataConfig(crop_seconds=1.0, crop="random")
  starts = [crops.clip_start(cfg, 5, epoch, 9, 0, 32_000, 16_000) for epoch in range(2000)]
  assert min(starts) >= 0
  assert max(starts) <= 16_000
  assert len(set(starts)) > 1800
  assert abs(np.mean(starts) - 8000) < 500
  assert crops.clip_start(cfg, 5, 0, 9, 0, 16_000, 16_000) == 0
  assert crops.clip_start(cfg, 5, 0, 9, 0, 100, 16_000) == 0
  assert crops.clip_start(cfg, 5, 3, 9, 0, 32_000, 16_000) == starts[3]
