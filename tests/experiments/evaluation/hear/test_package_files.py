"""What is written for the public package, read back as it reads it."""

import json
import pickle

import numpy as np

from experiments.evaluation.hear.embeddings import embed_parts, kept_parts
from experiments.evaluation.hear.folder import open_folder
from experiments.evaluation.hear.package_files import write_package_files
from tests.experiments.evaluation.hear.small import Spectrum, write_folder

FOLDS = ("fold00", "fold01", "fold02")


def written(tmp_path, metadata, clips):
  folder = open_folder(write_folder(tmp_path / "task", FOLDS, metadata, clips=clips))
  made = embed_parts(folder, Spectrum(), tmp_path / "kept")
  parts = kept_parts(folder, tmp_path / "kept")
  for name in FOLDS:
    np.testing.assert_array_equal(made[name].y, parts[name].y)
    assert made[name].files == parts[name].files
  (out := tmp_path / "out").mkdir()
  write_package_files(folder, parts, out)
  return folder, parts, out


def rows_of(out, part):
  """(embeddings, labels) of a part."""
  shape = json.loads((out / f"{part}.embedding-dimensions.json").read_text())
  x = np.memmap(out / f"{part}.embeddings.npy", np.float32, "r", shape=tuple(shape))
  return x, pickle.loads((out / f"{part}.target-labels.pkl").read_bytes())


def test_clips(tmp_path):
  folder, parts, out = written(tmp_path, {}, clips=6)
  for name in FOLDS:
    x, labels = rows_of(out, name)
    np.testing.assert_array_equal(x, parts[name].x)
    truth = folder.truth(name)
    assert labels == [list(truth[file]) for file in parts[name].files]
    assert not (out / f"{name}.filename-timestamps.json").exists()
  told = {path.name for path in out.iterdir()}
  assert {"task_metadata.json", "labelvocabulary.csv", "fold00.json"} <= told


def test_moments(tmp_path):
  """Labels of a moment are those of the events around it, by the file and time that it has."""
  given = {
    "embedding_type": "event",
    "prediction_type": "multilabel",
    "evaluation": ["event_onset_200ms_fms"],
  }
  folder, parts, out = written(tmp_path, given, clips=2)
  x, labels = rows_of(out, "fold01")
  moments = json.loads((out / "fold01.filename-timestamps.json").read_text())
  assert len(moments) == len(labels) == len(x) == 2 * 40
  truth = folder.truth("fold01")
  for (file, time), found in zip(moments, labels, strict=True):
    around = {event.label for event in truth[file] if event.start <= time <= event.end}
    assert set(found) == around
  assert [file for file, _ in moments[::40]] == list(parts["fold01"].files)
  assert moments[1][1] == 50.0
