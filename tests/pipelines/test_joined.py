"""Pieces with what lies beside them, sample by sample."""

import numpy as np
import pytest

from pipelines import ArraySource, DataError, decode
from pipelines.errors import BadAudio
from pipelines.sources import Source
from pipelines.sources.joined import JoinedSource
from pipelines.sources.selected import SelectedSource

LENGTHS = (1_000, 900, 1_100, 1_000)


def pieces(rates=1_000, order=(2, 0, 3, 1)):
  """Four pieces of one recording, stored in another order: (source, numbers, the recording)."""
  line = np.arange(sum(LENGTHS), dtype=np.float32) / 8_192
  waves = np.split(line, np.cumsum(LENGTHS)[:-1])
  source = ArraySource([waves[i] for i in order], rates, ids=[f"piece {i}" for i in order])
  return source, list(order), line


def test_any_span_is_that_of_the_recording():
  source, numbers, line = pieces()
  joined = JoinedSource(source, ["r"] * 4, numbers, clip_seconds=3.0)
  assert isinstance(joined, Source)
  starts = np.cumsum((0, *LENGTHS))
  rng = np.random.default_rng(0)
  for i, number in enumerate(numbers):
    low, high = max(0, starts[number] - 1_500), min(len(line), starts[number + 1] + 1_500)
    assert joined.frames[i] == high - low
    for start, stop in (*np.sort(rng.integers(0, high - low, (20, 2))), (0, 9_999), (9_999, 9_999)):
      wave, rate = joined.read(i, int(start), int(stop))
      assert rate == 1_000
      np.testing.assert_array_equal(wave[:, 0], line[low:high][start:stop])


def test_no_seam_is_heard_after_resampling():
  """A clip over two pieces is the same stretch of the whole recording at another rate."""
  wave = np.random.default_rng(1).uniform(-0.5, 0.5, 3 * 44_100).astype(np.float32)
  joined = JoinedSource(ArraySource(np.split(wave, 3), 44_100), ["r"] * 3, [0, 1, 2], 1.0)
  whole = ArraySource([wave], 44_100)
  ours, want = np.zeros(32_000, np.float32), np.zeros(32_000, np.float32)
  start = 7_777  # of piece 1's stretch, which begins half a clip before it
  decode.fill(ours, joined, 1, start, 44_100, int(joined.frames[1]), 32_000)
  decode.fill(want, whole, 0, 22_050 + start, 44_100, len(wave), 32_000)
  np.testing.assert_allclose(ours, want, atol=1e-6)  # within float32 noise of samples below 1


def test_only_neighbours_of_one_recording_and_rate_are_joined():
  source, numbers, _ = pieces(rates=[1_000, 1_000, 2_000, 1_000])  # piece 3 has another rate
  joined = JoinedSource(source, ["r", "s", "r", "r"], numbers, clip_seconds=1.0)
  lengths = dict(zip(numbers, joined.frames.tolist(), strict=True))
  # Piece 0 is of another recording; of the others 1 and 2 are neighbours.
  assert lengths == {0: 1_000, 1: 900 + 500, 2: 1_100 + 500, 3: 1_000}
  gap = JoinedSource(source, ["r"] * 4, [2, 0, 4, 1], clip_seconds=1.0)
  assert dict(zip(numbers, gap.frames.tolist(), strict=True))[3] == 1_000
  assert joined.origins == ["r", "s", "r", "r"]


def test_a_damaged_neighbour_is_named():
  source, numbers, _ = pieces()
  inner = SelectedSource(source, np.arange(4))
  joined = JoinedSource(inner, ["r"] * 4, numbers, clip_seconds=1.0)

  def read(i, start, stop):
    if numbers[i] == 1:
      raise BadAudio("cannot be decoded")
    return source.read(i, start, stop)

  inner.read = read
  with pytest.raises(BadAudio, match="its neighbour piece 1: cannot be decoded"):
    joined.read(numbers.index(0), 0, 1_400)
  assert joined.read(numbers.index(0), 0, 1_000)[0].shape == (1_000, 1)
  with pytest.raises(BadAudio, match="^cannot be decoded"):
    joined.read(numbers.index(1), 0, 1_900)


def test_names_and_numbers_belong_to_the_pieces():
  source, numbers, _ = pieces()
  with pytest.raises(DataError, match="3 names and 4 numbers for 4 pieces"):
    JoinedSource(source, ["r"] * 3, numbers, 1.0)
