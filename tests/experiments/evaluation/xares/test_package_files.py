"""What is written for the public package, read back."""

import dataclasses
import io
import json
import tarfile

import numpy as np

from experiments.evaluation.xares.package_files import write_package_files
from experiments.evaluation.xares.pooled import Pooled
from experiments.evaluation.xares.table import Recipe
from experiments.evaluation.xares.tars import Task

POOLED = Pooled(
  np.arange(10, dtype=np.float32).reshape(5, 2),
  np.array([0, 0, 1, 2, 3], np.int32),  # the first clip has two pieces
)
TASK = Task(
  name="made up",
  recipe=Recipe(),
  weight=1,
  parts={"george": np.array([0, 2]), "lucas": np.array([1]), "theo": np.array([3])},
  targets=np.array([2, 0, 1, 2], np.int32),
  classes=("a", "b", "c"),
  ids=("0", "1", "2", "3"),
  load=lambda clip, rate: np.zeros(1, np.float32),
)


def rows_of(path):
  """[(embedding, label)] of a tar, in order."""
  with tarfile.open(path) as tar:
    content = {member.name: tar.extractfile(member).read() for member in tar}
  keys = [name.removesuffix(".npy") for name in content if name.endswith(".npy")]
  arrays = [np.load(io.BytesIO(content[f"{key}.npy"])) for key in keys]
  labels = [json.loads(content[f"{key}.json"])["label"] for key in keys]
  return [(x.tolist(), label) for x, label in zip(arrays, labels, strict=True)]


def test_folds_have_numbers_and_pieces_are_rows(tmp_path):
  files = write_package_files(TASK, POOLED, tmp_path)
  assert list(files) == ["0", "1", "2"]
  assert rows_of(files["0"]) == [([[0.0, 1.0]], 2), ([[2.0, 3.0]], 2), ([[6.0, 7.0]], 1)]
  assert rows_of(files["1"]) == [([[4.0, 5.0]], 0)]


def test_tags_and_given_parts(tmp_path):
  tags = np.eye(3, dtype=np.float32)[[2, 0, 1, 2]]
  parts = dict(zip(("train", "valid", "test"), TASK.parts.values(), strict=True))
  task = dataclasses.replace(TASK, parts=parts, targets=tags)
  files = write_package_files(task, POOLED, tmp_path)
  assert list(files) == ["train", "valid", "test"]
  assert rows_of(files["test"]) == [([[8.0, 9.0]], [0.0, 0.0, 1.0])]
