"""Processes of a tiny run, which the tests kill, starve and damage, and what they must equal."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

from tests.experiments.tiny_pretrain import arrays, assert_same_arrays, rows

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
  """One start of the command, over a folder.

  prefix: shell text before it. devices: simulated ones. cache: a folder of compiled programs.
  env: more variables.
  """

  def __init__(self, folder, *flags, prefix="", devices=1, cache=None, env=None):
    self.folder = pathlib.Path(folder)
    command = [sys.executable, "-m", "tests.faults.pretrain_noting_ids", *FLAGS]
    command += ["--workdir", str(folder), *flags]
    flags = os.environ.get("XLA_FLAGS", "")
    variables = {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
    }
    if cache:
      variables |= {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
      }
    script = ["bash", "-c", f'{prefix} exec "$@"', "bash", *command] if prefix else command
    self.process = subprocess.Popen(
      script,
      cwd=ROOT,
      env={**variables, **(env or {})},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
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
    """A signal; then as `end`."""
    self.process.send_signal(number)
    return self.end()

  def end(self, seconds=900):
    """(exit code, lines on standard error)."""
    try:
      _, err = self.process.communicate(timeout=seconds)
    finally:
      self.process.kill()
    return self.process.returncode, err.splitlines()


def free_port():
  """A port of this machine that nobody listens at."""
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return probe.getsockname()[1]


def pair(folder, port, *flags, cache=None, devices=1):
  """Two processes of one run on this machine."""
  return [
    Process(
      folder,
      *flags,
      devices=devices,
      cache=cache,
      env={
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(number),
      },
    )
    for number in range(2)
  ]


def checkpoints(folder):
  """Steps of the finished ones."""
  return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


def ids(folder):
  """{step: ids of the global batch}, over all starts; a step that was repeated must agree."""
  parts = {}
  for path in sorted(folder.glob("ids.*.jsonl")):
    process = path.name.split(".")[1]
    for text in path.read_text().splitlines():
      with contextlib.suppress(ValueError):  # a line that was torn by kill -9
        step, names = json.loads(text)
        assert parts.setdefault((step, process), names) == names, (step, process)
  out = {}
  for step, process in sorted(parts):
    out.setdefault(step, []).extend(parts[step, process])
  return out


def assert_as_unbroken(folder, unbroken):
  """Metrics, the ids of every batch, and every array of the last state, bit for bit.

  The losses of all steps would differ if a mask did.
  """
  assert ids(folder) == ids(unbroken)
  assert rows(folder) == rows(unbroken)
  assert_same_arrays(arrays(folder, STEPS), arrays(unbroken, STEPS))
  assert (folder / "export" / "encoder.pt").is_file()


def finish(folder, unbroken, cache, **how):
  """Starts once more, to the end, and compares; the lines that it printed."""
  code, err = Process(folder, cache=cache, **how).end()
  assert code == 0, err
  assert_as_unbroken(folder, unbroken)
  return err
