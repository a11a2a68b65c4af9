"""Libraries in the cache are whole, and those that nobody uses go."""

import os

import pytest

from dasheng_jax.native import cache

NOW = 1.8e9


@pytest.fixture
def made(tmp_path):
  path = tmp_path / "build-1" / "kernels.so"
  path.parent.mkdir()
  path.write_bytes(b"\x7fELF and so on")
  return path


def aged(path, seconds):
  os.utime(path, (NOW - seconds,) * 2)
  return path


def test_what_is_placed_is_found(made, tmp_path):
  path = cache.place(made, tmp_path, "abc")
  assert path.read_bytes() == b"\x7fELF and so on"
  assert not made.exists()
  assert cache.find(tmp_path, "abc") == [path]
  assert cache.find(tmp_path, "ab") == []


def test_it_is_on_the_disk_before_it_has_its_name(made, tmp_path, monkeypatch):
  steps: list[tuple[str, int | None]] = []
  monkeypatch.setattr(os, "fsync", lambda number: steps.append(("fsync", os.fstat(number).st_ino)))
  replace = os.replace
  monkeypatch.setattr(os, "replace", lambda a, b: steps.append(("replace", replace(a, b))))
  inode = made.stat().st_ino
  cache.place(made, tmp_path, "abc")
  assert steps == [("fsync", inode), ("replace", None)]


def test_what_another_process_placed_stays(made, tmp_path):
  again = made.with_name("again.so")
  again.write_bytes(made.read_bytes())
  first = cache.place(made, tmp_path, "abc")
  inode = aged(first, cache.UNUSED_SECONDS).stat().st_ino
  assert cache.place(again, tmp_path, "abc") == first
  assert first.stat().st_ino == inode
  assert first.stat().st_mtime != NOW - cache.UNUSED_SECONDS  # it counts as used


@pytest.mark.parametrize("left", [b"", b"\x7fELF and", b"\x7fELF and so no"])
def test_what_is_damaged_is_removed(made, tmp_path, left):
  path = cache.place(made, tmp_path, "abc")
  path.write_bytes(left)
  assert cache.find(tmp_path, "abc") == []
  assert not path.exists()


def test_what_cannot_be_read_is_left_alone(made, tmp_path):
  folder = tmp_path / "kernels-abc-0123456789abcdef.so"
  folder.mkdir()
  path = cache.place(made, tmp_path, "abc")
  assert cache.find(tmp_path, "abc") == [path]
  assert folder.exists()


def test_a_sweep_takes_what_is_old_and_nothing_else(tmp_path):
  young, old = cache.UNUSED_SECONDS - 60, cache.UNUSED_SECONDS + 60
  ages = {
    "kernels-1-2.so": young,
    "kernels-3-4.so": old,
    "kernels-5.so": old,  # named before names had digests
    "build-new": cache.BUILD_SECONDS - 60,
    "build-left": cache.BUILD_SECONDS + 60,
    "weights": 10 * old,
    "notes.so": 10 * old,
  }
  for name, age in ages.items():
    path = tmp_path / name
    if name.startswith(("build", "weights")):
      path.mkdir()
      (path / "kernels.o").touch()
    else:
      path.touch()
    aged(path, age)
  cache.sweep(tmp_path, NOW)
  kept = {"kernels-1-2.so", "build-new", "weights", "notes.so"}
  assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_sweep_beside_another_process(tmp_path, monkeypatch):
  """What the other removes first, or forbids to remove, is no error."""
  for name in ("kernels-1-2.so", "kernels-3-4.so"):
    (tmp_path / name).touch()
    aged(tmp_path / name, 2 * cache.UNUSED_SECONDS)

  def refuse(path):
    raise PermissionError if path.name == "kernels-1-2.so" else FileNotFoundError

  monkeypatch.setattr(type(tmp_path), "unlink", refuse)
  cache.sweep(tmp_path, NOW)
  cache.mark_used(tmp_path / "gone.so")
