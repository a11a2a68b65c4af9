"""Real processes that are killed, interrupted, short of disk or given a damaged checkpoint.

Every history must end where an undisturbed run ends, bit for bit. `make test-faults` runs this.
"""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.experiments.tiny_pretrain import (
  arrays,
  assert_same_arrays,
  read_json,
  rows,
)

pytestmark = pytest.mark.faults
ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 36
FLAGS = (
  "--config debug --model.encoder.width 32 --model.encoder.depth 2 --model.encoder.heads 2 "
  "--model.encoder.positions 16 --model.decoder.width 32 --model.decoder.depth 1 "
  "--model.decoder.heads 2 --data.source synthetic:10 --data.crop_seconds 0.4 "
  f"--data.crop random --optim.ema 0.9 --loop.steps {STEPS} --loop.batch_size 4 "
  "--loop.validate_every 12 --loop.save_every 3"
).split()


class Process:
  """One start of the command, over a folder."""

  def __init__(self, folder, *flags, prefix="", devices=1, cache=None):
    self.folder = pathlib.Path(folder)
    command = [sys.executable, "-m", "experiments.pretrain", *FLAGS]
    command += ["--workdir", str(folder), *flags]
    env = {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    if cache:
      env |= {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
      }
    script = ["bash", "-c", f'{prefix} exec "$@"', "bash", *command] if prefix else command
    self.process = subprocess.Popen(
      script, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )

  def lines_written(self):
    """Lines that this folder's metrics hold just now."""
    with contextlib.suppress(OSError):
      return (self.folder / "metrics.jsonl").read_bytes().count(b"\n")
    return 0

  def wait_for(self, lines):
    """Returns when so many lines are written, or the process has ended: whether it still runs."""
    while self.process.poll() is None:
      if self.lines_written() >= lines:
        return True
      time.sleep(0.005)
    return False

  def send(self, number):
    self.process.send_signal(number)
    return self.end()

  def end(self, seconds=900):
    """(exit code, lines on standard error)."""
    try:
      _, err = self.process.communicate(timeout=seconds)
    finally:
      self.process.kill()
    return self.process.returncode, err.splitlines()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  """Compiled programs, which all starts but the undisturbed one share."""
  return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  folder = tmp_path_factory.mktemp("unbroken") / "run"
  code, err = Process(folder).end()
  assert code == 0, err
  assert len(rows(folder)) == STEPS + 3
  return folder


def assert_as_unbroken(folder, unbroken):
  assert rows(folder) == rows(unbroken)
  assert_same_arrays(arrays(folder, STEPS), arrays(unbroken, STEPS))
  assert (folder / "export" / "encoder.pt").is_file()


def checkpoints(folder):
  return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


def finish(folder, unbroken, cache, **how):
  """Starts once more, to the end, and compares; the lines that it printed."""
  code, err = Process(folder, cache=cache, **how).end()
  assert code == 0, err
  assert_as_unbroken(folder, unbroken)
  return err


def test_killed_at_random_moments(unbroken, cache, tmp_path):
  draw = random.Random(20)
  folder = tmp_path / "run"
  killed = []
  for _ in range(4):
    process = Process(folder, cache=cache)
    # Some steps further than the last start came, and then a moment within a step, or within the
    # saving that runs beside it.
    if not process.wait_for(process.lines_written() + draw.randint(1, 10)):
      break
    time.sleep(draw.uniform(0, 0.2))
    killed.append(process.send(signal.SIGKILL)[0])
  assert set(killed) == {-signal.SIGKILL}
  assert len(killed) >= 3
  finish(folder, unbroken, cache)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_by_a_signal(unbroken, cache, tmp_path, number, code):
  folder = tmp_path / "run"
  process = Process(folder, cache=cache)
  assert process.wait_for(10)
  got, err = process.send(number)
  assert got == code
  step = checkpoints(folder)[-1]
  assert err[-1] == (
    f"pretrain: stopped by {number.name} after step {step}; the same command goes on from there"
  )
  assert not any("Traceback" in line or "error" in line for line in err)
  assert max(s for s, part in rows(folder) if part == "train") == step
  assert f"resuming after step {step} of {STEPS}" in finish(folder, unbroken, cache)


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


def test_a_full_disk(unbroken, cache, tmp_path):
  with small_disk(tmp_path / "disk", 6) as resize:
    folder = tmp_path / "disk" / "run"
    process = Process(folder, cache=cache)
    assert process.wait_for(14)
    ballast = folder.parent / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
      while True:
        file.write(bytes(4096))
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


def test_a_damaged_newest_checkpoint(unbroken, cache, tmp_path):
  folder = tmp_path / "run"
  process = Process(folder, cache=cache)
  assert process.wait_for(14)
  process.send(signal.SIGTERM)
  before, newest = checkpoints(folder)[-2:]
  data = max(
    (p for p in (folder / "checkpoints" / str(newest) / "state").rglob("*") if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 0x10
  data.write_bytes(content)
  err = finish(folder, unbroken, cache)
  (warning,) = [line for line in err if " is damaged: " in line]
  assert f"checkpoint {newest} in " in warning
  assert warning.endswith(f"going back to checkpoint {before}")
  assert f"resuming after step {before} of {STEPS}" in err
  assert (folder / "checkpoints" / f"{newest}.damaged").is_dir()


def test_another_number_of_devices(unbroken, cache, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(unbroken, folder)
  for path in (folder / "checkpoints").iterdir():
    if path.name.isdigit() and int(path.name) == STEPS:
      shutil.rmtree(path)
  start = checkpoints(folder)[-1]
  code, err = Process(folder, devices=2, cache=cache).end()
  assert code == 0, err
  assert any("2 cpu device(s), mesh data 2" in line for line in err)
  assert read_json(folder / "summary.json")["resumed_at"] == start
  one, two = rows(unbroken), rows(folder)
  assert one.keys() == two.keys()
  for key in one:
    assert two[key]["loss"] == pytest.approx(one[key]["loss"], abs=1e-5), key
