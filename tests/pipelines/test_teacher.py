"""Stored logits: two forms, ids as people write them, and files that are not what they say."""

import json
import os
import pickle

import numpy as np
import pytest

from pipelines import DataError, columns
from pipelines.columns import PackedStrings
from pipelines.teacher import IDS, LOGITS, RECORD, open_teacher
from pipelines.torch_tensor import read_tensor
from tests.mobile_jax.fixtures import GOLDEN

LOGIT_ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def authors(tmp_path):
  np.save(tmp_path / "passt.npy", LOGIT_ROWS.astype(np.float16))
  (tmp_path / "ids.pkl").write_bytes(pickle.dumps({"--PJHxphWEs": 2, "abc": 0}))
  return tmp_path


@pytest.fixture
def ours(tmp_path):
  for number, names in enumerate((["a", "b"], ["c/d.wav", "e"])):
    np.save(tmp_path / LOGITS.format(number), LOGIT_ROWS[2 * number :][:2])
    columns.save(str(tmp_path / IDS.format(number)), {"ids": PackedStrings.pack(names)})
  record = {"classes": ["x", "y", "z"], "models": ["mn"], "parts": 2}
  (tmp_path / RECORD).write_text(json.dumps(record))
  return tmp_path


def open_authors(folder):
  return open_teacher(str(folder / "passt.npy"), str(folder / "ids.pkl"))


def test_the_authors_form(authors):
  teacher = open_authors(authors)
  assert (len(teacher), teacher.classes, teacher.names) == (4, 3, ())
  rows = teacher.rows_of(["Y--PJHxphWEs", "x/Y--PJHxphWEs.mp3", "abc", "Yabcd", "--PJHxphWEs"])
  assert rows.tolist() == [2, 2, 0, -1, 2]
  np.testing.assert_array_equal(teacher.logits(rows[[0, 3, 2]]), [[6, 7, 8], [0, 0, 0], [0, 1, 2]])


def test_our_form_over_several_parts(ours):
  teacher = open_teacher(str(ours))
  assert teacher.names == ("x", "y", "z")
  rows = teacher.rows_of(["c/d.wav", "a", "nobody", "e"])
  assert rows.tolist() == [2, 0, -1, 3]
  np.testing.assert_array_equal(teacher.logits(rows)[[0, 1, 3]], LOGIT_ROWS[[2, 0, 3]])


class Hostile:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


def test_nothing_in_a_dictionary_is_executed(authors):
  for content in (Hostile(str(authors / "made")), {"a": Hostile(str(authors / "made"))}):
    (authors / "ids.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"asks for posix\.mkdir.*nothing of it was executed"):
      open_authors(authors)
  assert not (authors / "made").exists()


@pytest.mark.parametrize(
  ("content", "match"),
  [
    ({"a": 4}, "gives 'a' row 4, and there are 4 rows"),
    ({"a": -1}, "gives 'a' row -1"),
    ({1: 2}, "is no dictionary from ids to row numbers"),
    ({}, "is no dictionary"),
    ([1, 2], "is no dictionary"),
  ],
)
def test_wrong_dictionaries_are_told(authors, content, match):
  (authors / "ids.pkl").write_bytes(pickle.dumps(content))
  with pytest.raises(DataError, match=match) as error:
    open_authors(authors)
  assert "\n" not in str(error.value)


def scene_table(folder, names):
  lines = ["filename\tscene_label", *(f"audio/{name}.wav\tbus" for name in names)]
  (folder / "meta.csv").write_text("".join(f"{line}\n" for line in lines))
  return str(folder / "meta.csv")


def test_a_tensor_by_the_rows_of_a_table(tmp_path):
  """As the authors of the scene models store them: row i is of the recording in line i."""
  names = [f"bus-lyon-1-2-{i}-a" for i in (3, 1, 0, 2, 5, 4)]
  teacher = open_teacher(str(GOLDEN / "torch_tensor.pt"), scene_table(tmp_path, names))
  assert (len(teacher), teacher.classes, teacher.names) == (6, 3, ())
  rows = teacher.rows_of([f"{names[4]}.wav", f"audio/{names[0]}.flac", names[2], "bus-lyon"])
  assert rows.tolist() == [4, 0, 2, -1]
  np.testing.assert_array_equal(
    teacher.logits(rows)[:3], read_tensor(GOLDEN / "torch_tensor.pt")[[4, 0, 2]]
  )


def test_a_table_of_other_recordings_is_refused(tmp_path):
  stored = str(GOLDEN / "torch_tensor.pt")
  for names, match in (
    ("abcde", "lists 5 recordings, 5 of them different, and there are 6 rows"),
    ("abcdea", "lists 6 recordings, 5 of them different"),
  ):
    with pytest.raises(DataError, match=match):
      open_teacher(stored, scene_table(tmp_path, names))
  with pytest.raises(DataError, match=r"no table at .*absent\.csv"):
    open_teacher(stored, str(tmp_path / "absent.csv"))
  with pytest.raises(DataError, match=r"or its meta\.csv \(--teacher_ids\)"):
    open_teacher(stored)


def test_damaged_files_are_told(authors, ours):
  (authors / "ids.pkl").write_bytes(b"\x80\x04\x95")
  with pytest.raises(DataError, match="is no sound pickle"):
    open_authors(authors)
  with pytest.raises(DataError, match="name its dictionary"):
    open_teacher(str(authors / "passt.npy"))
  with pytest.raises(DataError, match="no folder of stored logits and no .npy"):
    open_teacher(str(authors / "absent"))
  np.save(ours / LOGITS.format(1), np.full((2, 3), np.nan, np.float32))
  with pytest.raises(DataError, match="values that are not finite"):
    open_teacher(str(ours))
  np.save(ours / LOGITS.format(1), LOGIT_ROWS[:1])
  with pytest.raises(DataError, match=r"ids-00001\.npz.*absent, damaged or foreign"):
    open_teacher(str(ours))
  (ours / LOGITS.format(1)).write_bytes(b"no array")
  with pytest.raises(DataError, match="absent or no array"):
    open_teacher(str(ours))
  (ours / RECORD).write_text("{")
  with pytest.raises(DataError, match=r"teacher\.json' is damaged"):
    open_teacher(str(ours))
