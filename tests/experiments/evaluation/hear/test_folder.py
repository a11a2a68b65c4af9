"""Folders as the benchmark prepares them: parts, labels, rates, and what is refused."""

import json

import pytest

from experiments.evaluation.hear.folder import Event, find_folders, open_folder
from experiments.evaluation.hear.grid import Grid
from pipelines.errors import DataError
from tests.experiments.evaluation.hear.small import LABELS, RATE, write_folder

FOLDS = ("fold00", "fold01", "fold02", "fold03")
EVENTS = {
  "task_name": "sounds",
  "embedding_type": "event",
  "prediction_type": "multilabel",
  "evaluation": ["event_onset_200ms_fms", "segment_1s_er"],
}


def test_a_folder_of_folds(tmp_path):
  folder = open_folder(write_folder(tmp_path / "tones", FOLDS, {}))
  assert folder.labels == LABELS
  assert folder.key is None
  assert [(s.test, s.valid, s.train) for s in folder.splits] == [
    ("fold00", "fold01", ("fold02", "fold03")),
    ("fold01", "fold02", ("fold00", "fold03")),
    ("fold02", "fold03", ("fold00", "fold01")),
    ("fold03", "fold00", ("fold01", "fold02")),
  ]
  assert folder.truth("fold00")["fold00_1.wav"] == ("low",)
  assert folder.load("fold00", "fold00_1.wav", RATE).shape == (RATE // 4,)
  assert folder.load("fold00", "fold00_1.wav", 2 * RATE).shape == (RATE // 2,)


def test_a_folder_with_given_parts_and_a_grid_of_its_own(tmp_path):
  own = {
    "split_mode": "trainvaltest",
    "use_scoring_for_early_stopping": False,
    "evaluation_params": {
      "event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]},
      "task_specific_param_grid": {"max_epochs": [50], "check_val_every_n_epoch": [1]},
    },
  }
  path = write_folder(tmp_path / "sounds", ("train", "valid", "test"), {**EVENTS, **own})
  folder = open_folder(path)
  assert [tuple(split) for split in folder.splits] == [(("train",), "valid", "test")]
  assert folder.by_loss
  assert folder.postprocessing == ((150, 50),)
  assert folder.grid(Grid()) == Grid(max_epochs=50, check_every=1)
  assert folder.truth("train")["train_0.wav"][1] == Event("low", 1000.0, 1600.0)


def test_the_office_sounds_are_looked_at_every_ten_epochs(tmp_path):
  given = {**EVENTS, "task_name": "dcase2016_task2", "split_mode": "trainvaltest"}
  path = write_folder(tmp_path / "office", ("train", "valid", "test"), given, clips=1)
  folder = open_folder(path)
  assert folder.key == "dcase2016"
  assert folder.grid(Grid()).check_every == 10
  assert folder.postprocessing == ((250, 125), (250, 250))


def test_folders_below_are_found(tmp_path):
  for name in ("b", "a"):
    write_folder(tmp_path / name, FOLDS, {"task_name": name}, clips=1)
  assert [folder.name for folder in find_folders(tmp_path)] == ["a", "b"]
  assert [folder.name for folder in find_folders(tmp_path / "b")] == ["b"]
  with pytest.raises(DataError, match="no folder at"):
    find_folders(tmp_path / "c")


@pytest.mark.parametrize(
  ("given", "match"),
  [
    ({"embedding_type": "chord"}, "'chord'"),
    ({"splits": ["fold00", "fold01"]}, "at least three"),
    ({"split_mode": "trainvaltest"}, "not train, valid and test"),
    ({"task_name": "esc50"}, "HEAR's esc50"),
    ({"evaluation_params": {"task_specific_param_grid": {"lr": [1]}}}, "lr=.* unknown"),
    ({"embedding_type": "event"}, "multilabel alone"),
  ],
)
def test_what_is_not_of_the_benchmark_is_refused(tmp_path, given, match):
  path = write_folder(tmp_path / "tones", FOLDS, given, clips=1)
  with pytest.raises(DataError, match=match):
    open_folder(path)


def test_labels_that_cannot_be_are_refused(tmp_path):
  path = write_folder(tmp_path / "tones", FOLDS, {}, clips=1)
  folder = open_folder(path)
  (path / "fold00.json").write_text(json.dumps({"a.wav": ["high", "low"]}))
  with pytest.raises(DataError, match="2 labels, not one"):
    folder.truth("fold00")
  (path / "fold00.json").write_text(json.dumps({"a.wav": ["red"]}))
  with pytest.raises(DataError, match="'red' is not in"):
    folder.truth("fold00")
  (path / "fold00.json").write_text("{}")
  with pytest.raises(DataError, match="no clips"):
    folder.truth("fold00")


def test_the_benchmark_s_own_archive(shared):
  (archive,) = (shared / "data" / "hear").glob("*.tar.gz")
  (folder,) = find_folders(archive)
  assert (folder.name, folder.mode, folder.scores) == ("spoken_digit", "small", ("top1_acc",))
  assert len(folder.splits) == 5
  truth = folder.truth("fold00")
  assert len(truth) == 20
  assert folder.load("fold00", next(iter(truth)), 44_100).shape == (44_100,)
