"""Damaged recordings, thousands of each kind, through the decoders."""

import pytest

from tests.faults import fuzzing

pytestmark = [pytest.mark.faults, pytest.mark.fault(14)]
COUNTS = {"wav": 2500, "flac": 2500, "ogg, mp3, aiff, au": 1500}


@pytest.mark.parametrize("name", COUNTS)
def test_damaged_recordings(tmp_path, name):
  fuzzing.run("audio_readers", name, COUNTS[name], tmp_path / "fuzz")
