"""One run in a folder at a time; a crash leaves it free; a folder that vanishes is noticed."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from experiments.training import workdir
from experiments.training.errors import RunError, UsageError
from experiments.training.workdir import Workdir

HOLD = """
import pathlib, sys, time
from experiments.training.workdir import Workdir
with Workdir(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(600)
"""


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
  folder = tmp_path / "deep" / "run"
  with Workdir(folder) as first:
    first.check()
    with pytest.raises(UsageError, match=rf"at work there \(process {os.getpid()} on "):
      Workdir(folder)
    with Workdir(folder, active=False) as other:  # another process of the same run
      other.check()
  with Workdir(folder):
    pass


def test_a_crash_leaves_no_lock_behind(tmp_path):
  with subprocess.Popen(
    [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=rf"process {process.pid} on "):
      Workdir(tmp_path)
    process.send_signal(signal.SIGKILL)
  with Workdir(tmp_path):
    pass


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_folder_that_vanishes(tmp_path, how):
  folder = tmp_path / "run"
  with Workdir(folder) as place:
    if how == "moved":
      folder.rename(tmp_path / "elsewhere")
    else:
      shutil.rmtree(folder)
    if how == "replaced":
      folder.mkdir()
      (folder / workdir.LOCK).touch()
    with pytest.raises(RunError, match="run has vanished"):
      place.check()


def test_a_folder_that_cannot_be(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UsageError, match=r"file/run: cannot be written \(Not a directory"):
    Workdir(tmp_path / "file" / "run")


def test_file_systems_without_locks(tmp_path, monkeypatch):
  def flock(*_):
    raise OSError(workdir.errno.ENOLCK, "No locks available")

  monkeypatch.setattr(workdir.fcntl, "flock", flock)
  with Workdir(tmp_path) as place:
    place.check()
