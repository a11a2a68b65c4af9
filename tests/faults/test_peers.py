"""Several processes of one run: one that dies, and a run that changes its number of devices."""

import shutil
import signal
import time

import numpy as np
import pytest

from tests.experiments.tiny_pretrain import arrays, read_json, rows
from tests.faults.processes import STEPS, Process, checkpoints, free_port, ids, pair

pytestmark = pytest.mark.faults
# What a process without its peer may take to end: it is told by the broken connection.
LIMIT_SECONDS = 30


def assert_alike(folder, unbroken):
  """The same clips in every step; losses to 1e-5 and parameters to 1e-6 of those of one device.

  But for the biases of keys: softmax makes their true gradient zero, so that Adam turns nothing but
  the rounding of sums into steps of its own size.
  """
  assert ids(folder) == ids(unbroken)
  one, other = rows(unbroken), rows(folder)
  assert one.keys() == other.keys()
  for key in one:
    assert other[key]["loss"] == pytest.approx(one[key]["loss"], abs=1e-5), key
  ours, theirs = arrays(folder, STEPS), arrays(unbroken, STEPS)
  for path in theirs:
    if path.startswith("params/"):
      if path.endswith("qkv_bias"):
        ours[path][:, 1] = theirs[path][:, 1]
      np.testing.assert_allclose(ours[path], theirs[path], rtol=0, atol=1e-6, err_msg=path)


@pytest.mark.fault(3)
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_processes_is_killed(unbroken, cache, tmp_path, victim):
  folder = tmp_path / "run"
  processes = pair(folder, free_port(), cache=cache)
  assert processes[0].wait_for(8)
  assert processes[victim].send(signal.SIGKILL)[0] == -signal.SIGKILL
  began = time.monotonic()
  code, err = processes[1 - victim].end(LIMIT_SECONDS)
  assert time.monotonic() - began < LIMIT_SECONDS
  assert code == 75, err
  (line,) = [text for text in err if text.startswith("pretrain: error: ")]
  assert "lost each other" in line
  assert f"it goes on from checkpoint {checkpoints(folder)[-1]}" in line
  assert not any("Traceback" in text for text in err)
  for process in pair(folder, free_port(), cache=cache):
    processes.append(process)
  ends = [process.end() for process in processes[2:]]
  assert [code for code, _ in ends] == [0, 0], ends
  assert_alike(folder, unbroken)


@pytest.fixture(scope="module")
def half_way(tmp_path_factory, cache):
  """Runs that were stopped half-way: on two processes, and on eight devices."""
  folders = {}
  for name in ("two processes", "eight devices"):
    folder = tmp_path_factory.mktemp("half") / "run"
    size = ("--loop.batch_size", "8") if name == "eight devices" else ()
    if name == "two processes":
      both = pair(folder, free_port(), cache=cache)
      assert both[0].wait_for(14)
      both[1].process.send_signal(signal.SIGTERM)
      assert [process.end()[0] for process in both] == [143, 143]
    else:
      process = Process(folder, *size, "--mesh.fsdp", "4", devices=8, cache=cache)
      assert process.wait_for(14)
      assert process.send(signal.SIGTERM)[0] == 143
    folders[name] = folder, size
  return folders


@pytest.fixture(scope="module")
def undisturbed(unbroken, tmp_path_factory, cache):
  """What each must equal: runs on one device, of four clips and of eight."""
  folder = tmp_path_factory.mktemp("eight") / "run"
  code, err = Process(folder, "--loop.batch_size", "8").end()
  assert code == 0, err
  return {"two processes": unbroken, "eight devices": folder}


@pytest.mark.fault(4)
@pytest.mark.parametrize("saved", ["two processes", "eight devices"])
@pytest.mark.parametrize(
  ("devices", "mesh"), [(1, ()), (2, ("--mesh.fsdp", "2")), (4, ("--mesh.tensor", "2"))]
)
def test_another_number_of_devices(half_way, undisturbed, cache, tmp_path, saved, devices, mesh):
  source, size = half_way[saved]
  folder = tmp_path / "run"
  shutil.copytree(source, folder)
  start = checkpoints(folder)[-1]
  code, err = Process(folder, *size, *mesh, devices=devices, cache=cache).end()
  assert code == 0, err
  assert any(f"{devices} cpu device(s)" in line for line in err)
  assert read_json(folder / "summary.json")["resumed_at"] == start
  assert_alike(folder, undisturbed[saved])
