"""Disks that are full or read-only, folders that vanish, and two runs in one folder."""

import contextlib
import shutil
import signal
import subprocess
import time

import pytest

from tests.experiments.tiny_pretrain import rows
from tests.faults.processes import Process, checkpoints, finish

pytestmark = pytest.mark.faults
BLOCK = 4096  # bytes that a small disk hands out at once


@contextlib.contextmanager
def small_disk(folder, megabytes):
  """A file system of its own, where this user may mount one; yields how to give it more room."""
  folder.mkdir()
  mounted = subprocess.run(
    ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],
    capture_output=True,
    check=False,
  )
  if mounted.returncode:
    pytest.skip("mounting a small disk needs root")
  try:
    yield lambda size: subprocess.run(
      ["mount", "-o", f"remount,size={size}m", str(folder)], check=True
    )
  finally:
    subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.fault(7)
def test_a_full_disk(unbroken, cache, tmp_path):
  with small_disk(tmp_path / "disk", 6) as resize:
    folder = tmp_path / "disk" / "run"
    process = Process(folder, cache=cache)
    assert process.wait_for(14)
    ballast = folder.parent / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
      while True:
        file.write(bytes(BLOCK))
    code, err = process.end()
    assert code == 1, err
    (line,) = [text for text in err if text.startswith("pretrain: error: ")]
    assert line == err[-1]
    assert "space" in line
    assert not any("Traceback" in text for text in err)
    kept = checkpoints(folder)
    assert kept
    resize(64)
    ballast.unlink()
    err = finish(folder, unbroken, cache)
    resumed = [int(text.split()[3]) for text in err if text.startswith("resuming after step")]
    assert resumed == [kept[-1]]


@pytest.mark.fault(7)
def test_a_file_size_limit(unbroken, cache, tmp_path):
  # No root needed: files may not grow past 64 KiB, as metrics fit and checkpoints do not.
  folder = tmp_path / "run"
  process = Process(folder, cache=cache)
  assert process.wait_for(8)
  process.send(signal.SIGTERM)
  kept = checkpoints(folder)
  code, err = Process(folder, prefix="ulimit -f 64;").end()
  assert code == 1, err
  (line,) = [text for text in err if text.startswith("pretrain: error: ")]
  assert line == err[-1]
  assert "no space left on the disk" in line
  assert f"complete on disk: {', '.join(map(str, kept))}" in line
  assert checkpoints(folder) == kept
  finish(folder, unbroken, cache)


@pytest.mark.fault(7)
def test_a_full_disk_that_a_run_outlasts(unbroken, cache, tmp_path):
  """With --loop.failed_save go_on it says what it could not write, and makes up for it."""
  with small_disk(tmp_path / "disk", 6) as resize:
    folder = tmp_path / "disk" / "run"
    process = Process(folder, "--loop.failed_save", "go_on", cache=cache)
    assert process.wait_for(8)
    ballast = folder.parent / "ballast"
    until = time.monotonic() + 2.0
    with ballast.open("wb", buffering=0) as file:
      while time.monotonic() < until:  # an old checkpoint that is removed makes room again
        with contextlib.suppress(OSError):
          while True:
            file.write(bytes(BLOCK))
        time.sleep(0.01)
    resize(64)
    ballast.unlink()
    code, err = process.end()
    assert code == 0, err
    said = [line for line in err if "going on (--loop.failed_save)" in line]
    assert any("no space left on the disk" in line for line in said)
    assert rows(folder) == rows(unbroken)
    finish(folder, unbroken, cache)


@pytest.mark.fault(8)
def test_a_read_only_folder(tmp_path):
  with small_disk(tmp_path / "disk", 6):
    subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
    code, err = Process(tmp_path / "disk" / "run").end()
    assert code == 2
    assert err[-1].startswith(f"pretrain: error: --workdir {tmp_path}/disk/run: cannot be written")
    assert not any("Traceback" in line for line in err)


@pytest.mark.fault(8)
@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_folder_that_vanishes(unbroken, cache, tmp_path, how):
  folder = tmp_path / "run"
  process = Process(folder, cache=cache)
  assert process.wait_for(8)
  if how == "moved":
    folder.rename(tmp_path / "elsewhere")
  else:
    shutil.rmtree(folder, ignore_errors=True)
  code, err = process.end()
  assert code == 1, err
  assert err[-1].startswith("pretrain: error: ")
  assert not any("Traceback" in line for line in err)
  if how == "moved":
    assert "has vanished" in err[-1]
    shutil.rmtree(folder, ignore_errors=True)  # what a save under way had made anew
    (tmp_path / "elsewhere").rename(folder)
    finish(folder, unbroken, cache)


@pytest.mark.fault(8)
def test_two_runs_in_one_folder(unbroken, cache, tmp_path):
  folder = tmp_path / "run"
  first = Process(folder, cache=cache)
  assert first.wait_for(5)
  code, err = Process(folder, cache=cache).end()
  assert code == 2
  assert f"another run is at work there (process {first.process.pid} on " in err[-1]
  assert first.process.poll() is None
  assert first.send(signal.SIGKILL)[0] == -signal.SIGKILL  # which leaves no lock behind
  finish(folder, unbroken, cache)
