"""The published mn04 on real clips: the released code's tags, whole and over time."""

import json

import numpy as np
import pytest

from experiments import tag
from experiments.tagging import models
from experiments.tagging.files import Plan, tag_files

TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def published(torch):
  from tests.conftest import SHARED

  folder = SHARED / "fixtures" / "mobile"
  if not (folder / "mn04_as_mAP_432.pt").is_file():
    pytest.skip("needs the published weights and clips in fixtures/mobile beside the repository")
  return folder


@pytest.fixture(scope="module")
def recorded(published):
  return np.load(published / "mn04_real.npz")


@pytest.fixture(scope="module")
def tagger(published):
  # Windows of 4 s in fours, and clips of other lengths one by one: three programs in all.
  return models.open_tagger([str(published / "mn04_as_mAP_432.pt")], [], 4.0, batch=4)[0]


def test_windows_are_the_released_ones(published, recorded, tagger):
  speech = published / "audio" / "speech.flac"
  (file,) = tag_files([speech], tagger, Plan(4.0, 2.5, "pad"))
  assert file.spans == [(0, 4), (2.5, 6.5), (5, 9), (7.5, 10)]
  np.testing.assert_allclose(file.probabilities, recorded["windowed/probs"], atol=TOLERANCE)


def test_clips_of_any_length_are_exact(recorded, tagger, published):
  from experiments.audio_files import read_wave

  wave = read_wave(published / "audio" / "speech.flac", 32_000)
  logits = recorded["speech_first52345/logits"]
  wanted = 1 / (1 + np.exp(-logits))
  np.testing.assert_allclose(tagger.probabilities(wave[None, :52_345]), wanted, atol=TOLERANCE)
  # Another length of equally many frames needs no other program.
  before = len(tagger.members[0]._programs)
  tagger.probabilities(wave[None, :52_300])
  assert len(tagger.members[0]._programs) == before


def test_the_command_names_the_released_top_ten(published, tagger, monkeypatch, capsys):
  weights = published / "mn04_as_mAP_432.pt"
  monkeypatch.setattr(tag, "open_tagger", lambda *settings: (tagger, [weights]))
  names = ("music", "metro_station-paris_32k")
  clips = tuple(str(published / "audio" / f"{name}.flac") for name in names)
  assert tag.main(tag.TagConfig(files=clips, json="-")) == 0
  records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  wanted = json.loads((published / "mn04_real_top10.json").read_text())
  for name, record in zip(names, records, strict=True):
    found = [(t["label"], t["probability"]) for t in record["tags"]]
    assert [label for label, _ in found] == [label for label, _ in wanted[name]]
    np.testing.assert_allclose([p for _, p in found], [p for _, p in wanted[name]], atol=TOLERANCE)
