"""How waves become windows, windows batches, and batches results in the order of the files."""

import itertools
import math

import numpy as np
import pytest

from experiments.tagging.files import Plan, ahead, tag_files
from experiments.tagging.models import Tagger
from experiments.tagging.windows import cut, lengthened
from tests.experiments.tag_models import Measure, logit, measuring, noise, write


def pieces(samples, sizes=(3, 1, 7)):
  wave, at = np.arange(1, samples + 1, dtype=np.float32), 0
  while at < samples:
    size = sizes[at % len(sizes)]
    yield wave[at : at + size]
    at += size


@pytest.mark.parametrize("samples", [1, 4, 9, 10, 11, 12, 13, 30, 31])
@pytest.mark.parametrize("hop", [1, 3, 10])
def test_padded_windows_follow_the_formula(samples, hop):
  window = 10
  found = list(cut(pieces(samples), window, hop, "pad"))
  assert len(found) == max(1, math.ceil((samples - window) / hop) + 1)
  wave = np.pad(np.arange(1, samples + 1), (0, 100))
  for n, (start, stop, part) in enumerate(found):
    assert (start, stop) == (n * hop, min(samples, n * hop + window))
    np.testing.assert_array_equal(part, wave[start : start + window])


def test_windows_further_apart_than_they_are_long():
  spans = [(w.start, w.stop) for w in cut(pieces(31), 4, 9, "pad")]
  assert spans == [(0, 4), (9, 13), (18, 22), (27, 31)]
  # The formula's last window would begin at 36, behind the end.
  assert len(list(cut(pieces(33), 4, 9, "pad"))) == 4


@pytest.mark.parametrize(
  ("samples", "starts"), [(7, [0]), (10, [0]), (20, [0, 10]), (23, [0, 10, 13])]
)
def test_the_last_window_may_lie_at_the_end_instead(samples, starts):
  found = list(cut(pieces(samples), 10, 10, "back"))
  assert [w.start for w in found] == starts
  assert all(len(w.wave) == min(10, samples) for w in found)
  np.testing.assert_array_equal(found[-1].wave[-1], samples)


def test_no_samples_give_no_window():
  assert not list(cut([], 10, 10, "pad"))


def test_lengthened_repeats_from_the_start():
  np.testing.assert_array_equal(lengthened(np.arange(5), 4), [0, 1, 2, 3, 4, 0, 1, 2])
  np.testing.assert_array_equal(lengthened(np.arange(4), 4), np.arange(4))


def test_files_share_batches_and_keep_their_order(tmp_path):
  seconds = {"a": 3.5, "b": 0.4, "c": 0.4, "d": 1.0, "e": 2.0}
  paths = [write(tmp_path / f"{n}.wav", noise(s, i)) for i, (n, s) in enumerate(seconds.items())]
  tagger = measuring(batch=4)
  found = list(tag_files(paths, tagger, Plan(1.0, 1.0)))
  assert [file.path for file in found] == paths
  assert [len(file.rows) for file in found] == [4, 1, 1, 1, 2]
  assert found[0].spans == [(0, 1), (1, 2), (2, 3), (2.5, 3.5)]
  np.testing.assert_allclose([file.seconds for file in found], list(seconds.values()))
  # Length (class 3) and loudness (class 0) of each window by itself.
  np.testing.assert_allclose(logit(found[1].rows[0])[3], 0.4, atol=1e-4)
  quiet = np.abs(noise(3.5)[32_000:64_000]).mean()
  np.testing.assert_allclose(logit(found[0].rows[1])[0], quiet, atol=1e-3)
  assert set(tagger.members[0].shapes) == {(4, 32_000), (4, 12_800)}


def test_reading_ahead_keeps_order_errors_and_goes_no_further():
  made = []

  def items():
    for n in range(100):
      made.append(n)
      if n == 50:
        raise ValueError("at 50")
      yield n

  assert list(itertools.islice(ahead(items(), 3), 10)) == list(range(10))
  assert len(made) <= 10 + 4
  with pytest.raises(ValueError, match="at 50"):
    list(ahead(items(), 3))


def test_few_shapes_whatever_the_number_of_windows():
  tagger = measuring(batch=8)
  for count in range(1, 20):
    waves = np.stack([noise(0.1, n)[:, 0] for n in range(count)])
    found = tagger.probabilities(waves)
    np.testing.assert_allclose(logit(found[:, 1]), waves.max(axis=1), atol=1e-5)
  assert set(tagger.members[0].shapes) == {(1, 3200), (8, 3200)}


def test_an_ensemble_is_the_mean_of_logits():
  tagger = Tagger([Measure(0.0), Measure(3.0)], 2)
  (row,) = tagger.probabilities(noise(0.1).T)
  np.testing.assert_allclose(logit(row)[4], -7.5, rtol=1e-5)


def test_short_clips_are_repeated_where_that_is_asked_for(tmp_path):
  paths = [write(tmp_path / f"{i}.wav", noise(0.3 + 0.01 * i)) for i in range(5)]
  tagger = measuring(batch=1)
  found = list(tag_files(paths, tagger, Plan(10.0, 10.0, share=0.5)))
  assert set(tagger.members[0].shapes) == {(1, 16_000)}
  assert found[2].spans == [(0.0, 0.32)]
  assert found[2].seconds == 0.32


def test_one_pass_over_everything(tmp_path):
  path = write(tmp_path / "x.wav", noise(2.5))
  (file,) = tag_files([path], measuring(), Plan(window=None))
  assert file.spans == [(0.0, 2.5)]


def test_damaged_short_and_good_files_side_by_side(tmp_path):
  good = write(tmp_path / "good.wav", noise(1.0))
  bad = tmp_path / "bad.wav"
  bad.write_text("nothing")
  short = write(tmp_path / "short.wav", noise(0.01))
  found = list(tag_files([bad, good, short, good], measuring(), Plan(1.0, 0.5)))
  assert [bool(file.error) for file in found] == [True, False, True, False]
  assert "320 samples are too short; 16 ms" in found[2].error
  assert len(found[1].rows) == len(found[3].rows) == 1
  # Padded windows take any clip.
  (padded,) = tag_files([short], measuring(), Plan(1.0, 0.5, "pad"))
  assert padded.spans == [(0.0, 0.01)]
