"""Pieces stand in a file whole, whatever the disk does between them."""

import errno

import pytest

from experiments.training.whole_file import WholeFile


class Disk:
  """Stands for a file's descriptor: takes so many bytes and no more."""

  def __init__(self, file, room):
    self.file, self.room = file, room

  def write(self, data):
    if not self.room:
      raise OSError(errno.ENOSPC, "No space left on device")
    took = self.file.write(data[: self.room])
    self.room -= took
    return took

  def __getattr__(self, name):
    return getattr(self.file, name)


def test_pieces_that_did_not_fit_come_before_the_next_one(tmp_path):
  path = tmp_path / "x"
  path.write_bytes(b"old\n")
  file = WholeFile(path)
  file.write(b"one\n")
  file._file = Disk(file._file, room=2)
  for piece in (b"two\n", b"three\n"):
    with pytest.raises(OSError, match="No space left"):
      file.write(piece)
    assert path.read_bytes() == b"old\none\n"
  file._file.room = 100
  file.write(b"four\n")
  file.close()
  assert path.read_bytes() == b"old\none\ntwo\nthree\nfour\n"


def test_closing_tries_once_more(tmp_path):
  file = WholeFile(tmp_path / "x", anew=True)
  disk = file._file = Disk(file._file, room=0)
  with pytest.raises(OSError, match="No space left"):
    file.write(b"one")
  disk.room = 9
  file.close()
  assert (tmp_path / "x").read_bytes() == b"one"
  assert disk.file.closed
