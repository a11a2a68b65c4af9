"""Tasks of the HEAR benchmark: folder and archive, labels by vocabulary, rates, one-line errors."""

import json
import tarfile

import numpy as np
import pytest
import soundfile

from pipelines import tasks
from pipelines.errors import DataError
from pipelines.tasks.hear import HearFolder

METADATA = {
  "task_name": "barks", "embedding_type": "scene", "prediction_type": "multiclass",
  "split_mode": "new_split_kfold", "splits": ["fold00", "fold01"], "evaluation": ["top1_acc"],
}  # fmt: skip
FOLDS = {"fold00": {"a.wav": ["dog"], "b.wav": ["cat"]}, "fold01": {"c.wav": ["dog"]}}


def write_task(folder, metadata=METADATA, folds=FOLDS, vocabulary="idx,label\n1,cat\n0,dog\n"):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "task_metadata.json").write_text(json.dumps(metadata))
  (folder / "labelvocabulary.csv").write_text(vocabulary)
  for rate in (16_000, 32_000):
    for split, clips in folds.items():
      (folder / f"{split}.json").write_text(json.dumps(clips))
      (folder / str(rate) / split).mkdir(parents=True, exist_ok=True)
      for name in clips:
        soundfile.write(folder / str(rate) / split / name, np.full(rate // 10, rate / 1e5), rate)
  return folder


def test_a_folder_and_its_archive_are_one_task(tmp_path):
  folder = write_task(tmp_path / "tasks" / "barks-1.0")
  archive = tmp_path / "barks.tar.gz"
  with tarfile.open(archive, "w:gz") as tar:
    tar.add(tmp_path / "tasks", "tasks")
  for path in (folder, tmp_path / "tasks", archive):
    task = tasks.open_task(f"hear={path}")
    assert task.name == "hear barks"
    assert list(task.ids) == ["fold00/a.wav", "fold00/b.wav", "fold01/c.wav"]
    assert list(task.classes) == ["dog", "cat"]
    assert task.labels.tolist() == [0, 1, 0]
    assert list(task.groups) == ["fold00", "fold00", "fold01"]


def test_audio_comes_from_the_nearest_rate_that_loses_nothing(tmp_path):
  task = HearFolder.open(str(write_task(tmp_path)))
  assert task.rates == (16_000, 32_000)
  taken = {rate: task.file("fold01", "c.wav", rate).parts[-3] for rate in (8_000, 20_000, 48_000)}
  assert taken == {8_000: "16000", 20_000: "32000", 48_000: "32000"}
  assert task.read("fold01", "c.wav").tolist() == pytest.approx([0.16] * 1_600, abs=1e-4)
  assert len(task.read("fold01", "c.wav", 8_000)) == 800


def test_tags(tmp_path):
  folds = {"fold00": {"a.wav": ["dog", "cat"], "b.wav": []}, "fold01": {"c.wav": ["cat"]}}
  folder = write_task(tmp_path, METADATA | {"prediction_type": "multilabel"}, folds)
  assert tasks.open_task(f"hear={folder}").labels.tolist() == [[1, 1], [0, 0], [0, 1]]


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (
      {"metadata": METADATA | {"embedding_type": "event"}},
      "asks for multiclass answers about event",
    ),
    ({"metadata": METADATA | {"split_mode": "trainvaltest"}}, "needs folds"),
    ({"metadata": METADATA | {"splits": []}}, "names no splits"),
    ({"metadata": METADATA | {"splits": ["fold07"]}}, "fold07.json' cannot be read"),
    ({"metadata": [1]}, "holds a list, not an object"),
    ({"folds": {"fold00": {"a.wav": ["fox"]}, "fold01": {}}}, "label 'fox' is not in"),
    ({"folds": {"fold00": {"a.wav": ["dog", "cat"]}, "fold01": {}}}, "'a.wav' must have one label"),
    ({"folds": {"fold00": {"a.wav": "dog"}, "fold01": {}}}, "'a.wav' has no list"),
    ({"vocabulary": "idx,label\n0,dog\n2,cat\n"}, "number its labels from 0 on"),
    ({"vocabulary": "dog\ncat\n"}, "must be a table of idx and label"),
  ],
)
def test_what_is_wrong_with_a_task(tmp_path, change, words):
  with pytest.raises(DataError, match=words) as caught:
    tasks.open_task(f"hear={write_task(tmp_path, **change)}")
  assert "\n" not in str(caught.value)


def test_what_is_no_task(tmp_path):
  for name in ("one", "two"):
    write_task(tmp_path / "several" / name)
  (tmp_path / "empty").mkdir()
  (tmp_path / "cut.tar.gz").write_bytes(b"\x1f\x8b\x08 and then nothing of use")
  cases = {
    "": "no folder at ''",
    str(tmp_path / "empty"): "no task_metadata.json",
    str(tmp_path / "several"): "holds 2 tasks",
    str(tmp_path / "cut.tar.gz"): "cannot be unpacked",
  }
  for path, words in cases.items():
    with pytest.raises(DataError, match=words):
      HearFolder.open(path)


def test_the_sample_task(shared):
  (archive,) = (shared / "data" / "hear").glob("*spoken_digit*.tar.gz")
  task = tasks.open_task(f"hear={archive}")
  assert (len(task), task.name, len(set(task.groups))) == (100, "hear spoken_digit", 5)
  assert list(task.classes) == [str(digit) for digit in range(10)]
  assert task.load(0).shape == (16_000,)
