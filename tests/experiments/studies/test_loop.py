"""The loop over cells: what is finished stays, what fails is named, a stop is passed on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.studies import loop
from experiments.studies.cell import Cell
from experiments.studies.loop import run_cells
from experiments.training.errors import RunError, UsageError

SCRIPT = """
import json, os, signal, sys, time
name, out, behaviour = sys.argv[1:4]
with open(os.path.join(out, "log"), "a") as file:
  print(name, file=file)
if behaviour == "fail":
  sys.exit(3)
if behaviour == "slow":
  open(os.path.join(out, "waiting"), "w").close()
  time.sleep(60)
if behaviour == "ends":  # well, although it is asked to stop
  signal.signal(signal.SIGTERM, lambda *_: None)
  open(os.path.join(out, "waiting"), "w").close()
  time.sleep(1)
if behaviour == "wait":
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  open(os.path.join(out, "waiting"), "w").close()
  time.sleep(60)
if behaviour != "nothing":
  json.dump({"accuracy": 0.5}, open(os.path.join(out, name + ".json"), "w"))
"""


@dataclasses.dataclass(frozen=True)
class Scripted(Cell):
  """A cell that runs the script above in place of a module of ours."""

  @property
  def command(self):
    return ("-c", SCRIPT, *self.flags)


def cell(out, name, behaviour="good", needs=()):
  flags, result = (name, str(out), behaviour), out / f"{name}.json"
  return Scripted(name, "finetune", flags, result, "row", needs=needs)


def log(out):
  return (out / "log").read_text().split()


def test_each_runs_once_and_a_second_start_runs_nothing(tmp_path):
  cells = [cell(tmp_path, "a"), cell(tmp_path, "b")]
  first = run_cells(cells, tmp_path)
  assert list(first) == ["a", "b"]
  assert min(first.values()) > 0
  assert run_cells(cells, tmp_path) == first
  assert log(tmp_path) == ["a", "b"]


def test_a_failure_is_named_and_the_rest_goes_on_there(tmp_path):
  with pytest.raises(RunError, match="b failed with exit code 3"):
    run_cells([cell(tmp_path, "a"), cell(tmp_path, "b", "fail"), cell(tmp_path, "c")], tmp_path)
  run_cells([cell(tmp_path, "a"), cell(tmp_path, "b"), cell(tmp_path, "c")], tmp_path)
  assert log(tmp_path) == ["a", "b", "b", "c"]


def test_a_cell_that_leaves_nothing_is_not_taken_for_finished(tmp_path):
  with pytest.raises(RunError, match="left no"):
    run_cells([cell(tmp_path, "a", "nothing")], tmp_path)


def test_a_result_of_another_command_is_refused(tmp_path):
  run_cells([cell(tmp_path, "a")], tmp_path)
  other = dataclasses.replace(cell(tmp_path, "a"), flags=("a", str(tmp_path), "otherwise"))
  with pytest.raises(UsageError, match="a was made by another command"):
    run_cells([other], tmp_path)


def test_a_result_that_vanished_is_made_again(tmp_path):
  run_cells([cell(tmp_path, "a")], tmp_path)
  (tmp_path / "a.json").unlink()
  run_cells([cell(tmp_path, "a")], tmp_path)
  assert log(tmp_path) == ["a", "a"]


def test_a_damaged_record_is_named(tmp_path):
  (tmp_path / loop.RECORD).write_text("{")
  with pytest.raises(RunError, match="damaged"):
    run_cells([cell(tmp_path, "a")], tmp_path)


def test_what_reads_a_result_is_run_again_with_it(tmp_path):
  cells = [cell(tmp_path, "a"), cell(tmp_path, "b"), cell(tmp_path, "c", needs=("a",))]
  cells.append(cell(tmp_path, "d", needs=("c",)))
  run_cells(cells, tmp_path)
  (tmp_path / "a.json").unlink()
  run_cells(cells, tmp_path)
  assert log(tmp_path) == ["a", "b", "c", "d", "a", "c", "d"]


def test_every_attempt_counts_in_the_time(tmp_path):
  with pytest.raises(RunError):
    run_cells([cell(tmp_path, "a", "fail")], tmp_path)
  first = json.loads((tmp_path / loop.RECORD).read_text())["a"]["seconds"]
  both = run_cells([cell(tmp_path, "a")], tmp_path)["a"]
  assert both > first > 0
  assert run_cells([cell(tmp_path, "a")], tmp_path)["a"] == both


@pytest.mark.parametrize(
  ("behaviour", "said", "finished"),
  [("wait", "stopped in b", False), ("slow", "stopped in b", False), ("ends", "behind b", True)],
)
def test_a_stop_reaches_the_cell_and_ends_the_study_with_its_code(
  tmp_path, behaviour, said, finished
):
  """Whether the cell saves, dies of the signal, or was about to end anyway: no other one begins."""
  code = (
    "import pathlib, sys\n"
    "from tests.experiments.studies.test_loop import cell\n"
    "from experiments.studies.loop import run_cells\n"
    "out = pathlib.Path(sys.argv[1])\n"
    "run_cells([cell(out, 'a'), cell(out, 'b', sys.argv[2]), cell(out, 'c')], out)\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code, str(tmp_path), behaviour],
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ,
  )
  until = time.monotonic() + 60
  while not (tmp_path / "waiting").exists() and time.monotonic() < until:
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=30)
  assert process.returncode == 128 + signal.SIGTERM
  assert said in error
  assert log(tmp_path) == ["a", "b"]
  record = json.loads((tmp_path / loop.RECORD).read_text())
  assert {name: row["finished"] for name, row in record.items()} == {"a": True, "b": finished}
