import numpy as np
import pytest

from pipelines import files
from pipelines.columns import PackedStrings, concatenate, load, save, take
from pipelines.errors import BadAudio, DataError


@pytest.mark.parametrize(
  ("pattern", "paths"),
  [
    ("x.tar", ["x.tar"]),
    ("x-{000..002}.tar", ["x-000.tar", "x-001.tar", "x-002.tar"]),
    ("x-{8..11}.tar", ["x-8.tar", "x-9.tar", "x-10.tar", "x-11.tar"]),
    ("{a,b}/{0..1}.tar", ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
    ("{a{1..2},b}.tar", ["a1.tar", "b.tar", "a2.tar"]),
    ("{x,}y.tar", ["xy.tar", "y.tar"]),
  ],
)
def test_brace_lists(pattern, paths):
  assert sorted(files.expand(pattern)) == sorted(paths)
  if "{a{" not in pattern:
    assert files.expand(pattern) == paths


def test_unclosed_brace():
  with pytest.raises(DataError, match="unclosed brace"):
    files.expand("x-{000..002.tar")


def test_globs_are_sorted(tmp_path):
  for name in ("b.tar", "a.tar", "c.txt"):
    (tmp_path / name).touch()
  assert files.expand(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]


def test_read_range_and_window(tmp_path):
  path = str(tmp_path / "data")
  (tmp_path / "data").write_bytes(bytes(range(100)))
  assert files.read_range(path, 10, 5) == bytes(range(10, 15))
  with files.RangeFile(path, 10, 5) as window:
    assert window.read() == bytes(range(10, 15))
    assert window.seek(-2, 2) == 3
    assert window.read(10) == bytes([13, 14])
  with pytest.raises(BadAudio, match="ends at byte 100, before byte 105"):
    files.read_range(path, 95, 10)
  with pytest.raises(BadAudio, match="is gone"):
    files.read_range(path + "x", 0, 1)


def test_remote_paths_go_through_tensorflow_in_blocks(monkeypatch):
  tf = pytest.importorskip("tensorflow")
  monkeypatch.setattr(files, "_BLOCK", 16)
  path = "ram://folder/data"
  with tf.io.gfile.GFile(path, "wb") as file:
    file.write(bytes(range(100)))
  assert files.read_range(path, 10, 50) == bytes(range(10, 60))
  assert files.stat(path).size == 100
  assert files.exists(path)
  assert not files.exists(path + "x")
  with pytest.raises(FileNotFoundError):
    files.stat(path + "x")
  with pytest.raises(BadAudio, match="ends at byte 100"):
    files.read_range(path, 90, 20)


def test_hint_for_a_typo(tmp_path):
  (tmp_path / "recordings").mkdir()
  assert files.nearest(f"{tmp_path}/recordigns") == f"; did you mean {tmp_path}/recordings?"
  assert files.nearest(f"{tmp_path}/recordigns/deep/er").startswith("; did you mean")


def test_packed_strings_behave_like_a_list():
  items = ["a", "", "bär", "x/y\udcff.wav", "long" * 50]
  packed = PackedStrings.pack(items)
  assert list(packed) == items
  assert packed[-1] == items[-1]
  assert packed[1:3] == items[1:3]
  assert list(packed.take(np.array([3, 0]))) == [items[3], items[0]]
  assert list(packed.take(np.array([True, False, True, False, False]))) == ["a", "bär"]
  assert list(PackedStrings.pack([])) == []
  with pytest.raises(IndexError):
    packed[5]


def test_columns_survive_the_disk(tmp_path):
  table = {"n": np.arange(3), "s": PackedStrings.pack(["x", "", "z"])}
  path = str(tmp_path / "t.npz")
  save(path, table)
  back = load(path)
  assert list(back["s"]) == ["x", "", "z"]
  assert back["n"].tolist() == [0, 1, 2]
  both = concatenate([table, take(back, np.array([2]))])
  assert list(both["s"]) == ["x", "", "z", "z"]
  (tmp_path / "t.npz").write_bytes((tmp_path / "t.npz").read_bytes()[:100])
  assert load(path) is None
  assert load(str(tmp_path / "absent.npz")) is None
  assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]
