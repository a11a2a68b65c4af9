"""Labelled sets: layouts, labels, groups, and one clear line for what is wrong with a folder."""

import numpy as np
import pytest
import soundfile

from pipelines import tasks
from pipelines.errors import DataError
from pipelines.synthetic import CLASSES
from pipelines.tasks.labelled import LabelledSet


def tone(path, rate=16_000, seconds=0.25, channels=1, hz=440.0):
  path.parent.mkdir(parents=True, exist_ok=True)
  wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
  soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), rate)


@pytest.fixture
def digits(tmp_path):
  for name in ("0_ann_0", "7_ann_1", "7_bob_0"):
    tone(tmp_path / f"{name}.wav", rate=8_000)
  (tmp_path / "notes.txt").write_text("not audio")
  tone(tmp_path / "ringtone.wav")
  return tmp_path


@pytest.fixture
def esc(tmp_path):
  rows = [
    "filename,fold,target,category",
    "1-1-A-0.wav,1,0,dog",
    "2-1-A-41.wav,2,41,chainsaw",
    "2-2-A-7.wav,2,7,cow",
    "3-9-A-0.wav,3,0,dog",  # listed, not in the folder
  ]
  (tmp_path / "meta").mkdir()
  (tmp_path / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
  for name in ("1-1-A-0.ogg", "2-1-A-41.wav", "2-2-A-7.flac"):
    tone(tmp_path / "audio" / name, rate=44_100, channels=2)
  return tmp_path


def test_spoken_digits(digits):
  task = tasks.open_task(f"spoken_digits={digits}")
  assert list(task.ids) == ["0_ann_0", "7_ann_1", "7_bob_0"]
  assert task.labels.tolist() == [0, 7, 7]
  assert task.labels.dtype == np.int32
  assert list(task.groups) == ["ann", "ann", "bob"]
  wave = task.load(2)
  assert wave.dtype == np.float32
  assert wave.shape == (4_000,)  # 8 kHz becomes 16 kHz
  spectrum = np.abs(np.fft.rfft(wave))
  assert np.argmax(spectrum) * 16_000 / wave.size == pytest.approx(440, abs=4)


def test_spoken_digits_in_the_layout_of_the_original_repository(tmp_path):
  tone(tmp_path / "recordings" / "3_ann_0.wav", rate=8_000)
  assert list(tasks.open_task(f"spoken_digits={tmp_path}").ids) == ["3_ann_0"]


def test_who_speaks_with_folds_of_consecutive_takes(tmp_path):
  for take in range(10):
    for name in (f"3_ann_{take}", f"7_bob_{take}"):
      (tmp_path / f"{name}.wav").touch()
  task = tasks.open_task(f"speaker={tmp_path}")
  assert list(task.classes) == ["ann", "bob"]
  folds = {int(name[6:]): fold for name, fold in zip(task.ids, task.groups, strict=True)}
  assert [folds[take] for take in range(10)] == [f"fold{i}" for i in (1, 1, 2, 2, 3, 3, 4, 4, 5, 5)]
  assert task.labels.tolist() == [0] * 10 + [1] * 10


def test_content_tells_audio_apart(digits, esc):
  task = tasks.open_task(f"spoken_digits={digits}")
  assert task.content_of(0) == task.content_of(1)  # one tone under two names
  before = task.content_of(2)
  tone(digits / "7_bob_0.wav", rate=8_000, hz=441.0)
  assert task.content_of(2) != before
  made = tasks.open_task("synthetic=10")
  assert len({made.content_of(i) for i in range(10)}) == 10
  (digits / "7_bob_0.wav").unlink()
  with pytest.raises(DataError, match="7_bob_0.wav' cannot be read"):
    task.content_of(2)


def test_content_of_waves_where_there_is_no_file():
  waves = [np.zeros(8, np.float32), np.ones(8, np.float32), np.zeros(8, np.float32)]
  task = LabelledSet(
    "s", ["a", "b", "c"], np.zeros(3, np.int32), ["g"] * 3, ["x"], lambda i, rate=16_000: waves[i]
  )
  assert task.content_of(0) == task.content_of(2) != task.content_of(1)


def test_esc(esc):
  whole = tasks.open_task(f"esc50={esc}")
  assert list(whole.ids) == ["1-1-A-0", "2-1-A-41", "2-2-A-7"]
  assert list(whole.classes) == ["dog", "cow", "chainsaw"]
  assert whole.labels.tolist() == [0, 2, 1]
  part = tasks.open_task(f"esc10={esc}")
  assert list(part.classes) == ["dog", "chainsaw"]
  assert part.labels.tolist() == [0, 1]
  assert list(part.groups) == ["fold1", "fold2"]
  assert part.load(0).shape == (4_000,)  # 44.1 kHz stereo becomes 16 kHz mono


def test_synthetic():
  task = tasks.open_task("synthetic=100")
  assert len(task) == 100
  assert tuple(task.classes) == CLASSES
  for fold in range(1, 6):
    inside = task.labels[np.array(task.groups) == f"fold{fold}"]
    assert sorted(inside.tolist()) == sorted([*range(10)] * 2)
  assert task.load(3).shape == (64_000,)
  np.testing.assert_array_equal(task.load(3), tasks.open_task("synthetic").load(3))


def write_csv(folder, text):
  (folder / "meta" / "esc50.csv").write_text(text)


def test_one_line_errors(tmp_path, esc):
  empty = tmp_path / "empty"
  (empty / "meta").mkdir(parents=True)
  cases = {
    "spoken_digit=/x": "did you mean 'spoken_digits'",
    "speech_commands": "known: spoken_digits",
    "spoken_digits=/not/there": "no folder at '/not/there'",
    "spoken_digits": "no folder at ''",
    f"spoken_digits={empty}": "no audio named",
    f"esc10={empty}": "no table at",
    "synthetic=many": "'many' is not a number",
    "synthetic=0": "no clips",
  }
  for spec, words in cases.items():
    with pytest.raises(DataError, match=words) as caught:
      tasks.open_task(spec)
    assert "\n" not in str(caught.value)
  write_csv(empty, "filename,fold,target,category\n")
  with pytest.raises(DataError, match="no audio in"):
    tasks.open_task(f"esc10={empty}")
  write_csv(esc, "filename,fold,category\n1-1-A-0.wav,1,dog\n")
  with pytest.raises(DataError, match="lacks the column 'target'"):
    tasks.open_task(f"esc10={esc}")
  write_csv(esc, "filename,fold,target,category\n1-1-A-0.wav,1,0,dog\n1-2-A-0.wav,1,zero,dog\n")
  with pytest.raises(DataError, match="line 3: target 'zero'"):
    tasks.open_task(f"esc10={esc}")
  write_csv(esc, "filename,fold,target,category\nother.wav,1,0,dog\n")
  with pytest.raises(DataError, match="none of the files"):
    tasks.open_task(f"esc10={esc}")


def test_damaged_audio_is_named(digits):
  (digits / "7_bob_0.wav").write_bytes(b"RIFF and then nothing of use")
  task = tasks.open_task(f"spoken_digits={digits}")
  with pytest.raises(DataError, match=r"7_bob_0\.wav") as caught:
    task.load(2)
  assert "\n" not in str(caught.value)


def test_a_set_must_fit_together():
  def make(labels, groups):
    return LabelledSet("s", ["a", "b"], np.array(labels, np.int32), groups, ["x", "y"], np.zeros)

  assert len(make([0, 1], ["g", "h"])) == 2
  with pytest.raises(DataError, match="3 labels"):
    make([0, 1, 0], ["g", "h"])
  with pytest.raises(DataError, match="within 0..1"):
    make([0, 2], ["g", "h"])
  assert make([[0, 1], [1, 1]], ["g", "h"]).tagged
  with pytest.raises(DataError, match="0 or 1 for each of 2 classes"):
    make([[0, 1], [1, 2]], ["g", "h"])
  with pytest.raises(DataError, match="0 or 1 for each of 2 classes"):
    make([[0], [1]], ["g", "h"])


def test_the_sample_data(shared):
  digits = tasks.open_task(f"spoken_digits={shared / 'data' / 'spoken_digits'}")
  assert (len(digits), sorted(set(digits.groups))) == (
    2000,
    ["george", "jackson", "lucas", "nicolas"],
  )
  assert np.bincount(digits.labels).tolist() == [200] * 10
  esc10 = tasks.open_task(f"esc10={shared / 'data' / 'esc10'}")
  assert (len(esc10), len(esc10.classes), len(set(esc10.groups))) == (400, 10, 5)
  assert np.bincount(esc10.labels).tolist() == [40] * 10
  assert esc10.load(0).size == pytest.approx(80_000, abs=640)  # the codec pads its last block
