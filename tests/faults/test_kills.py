"""Processes that are killed or asked to stop: every history ends where an undisturbed run ends."""

import random
import signal
import time

import pytest

from tests.experiments.tiny_pretrain import rows
from tests.faults.processes import STEPS, Process, checkpoints, finish

pytestmark = pytest.mark.faults
KILLS = 20


@pytest.mark.fault(1)
def test_killed_at_random_moments(unbroken, cache, tmp_path):
  """Again and again, until the run has been killed often enough; each start goes on by itself."""
  draw = random.Random(20)
  killed, saving, resumed, number = [], 0, [], 0
  while len(killed) < KILLS:
    folder = tmp_path / f"run{number}"
    number += 1
    done = False
    while not done and len(killed) < KILLS:
      before = checkpoints(folder) if (folder / "checkpoints").is_dir() else []
      process = Process(folder, "--loop.save_every", "1", cache=cache)
      # Some steps further than the last start came, and then a moment within a step, or within the
      # saving that runs beside it.
      if not process.wait_for(process.lines_written() + draw.randint(1, 5)):
        done = True
        break
      time.sleep(draw.uniform(0, 0.2))
      code, err = process.send(signal.SIGKILL)
      assert code == -signal.SIGKILL
      killed.append(process)
      saving += any((folder / "checkpoints").glob("*tmp*"))
      said = [int(line.split()[3]) for line in err if line.startswith("resuming after step")]
      assert said == before[-1:]  # what was complete when the process began is where it went on
      resumed += said
    finish(folder, unbroken, cache)
  assert resumed, "every kill struck before the first checkpoint: lengthen the list of moments"
  assert saving, "no kill struck while a checkpoint was being written: lengthen the list of moments"


@pytest.mark.fault(2)
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
