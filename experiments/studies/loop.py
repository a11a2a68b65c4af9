"""Runs the cells of a study one after the other, each in a process of its own.

A process of its own gives its memory back, cannot take the study down with it, and is the very
command that a reader would type. What is finished is not run again.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from experiments.studies.cell import Cell
from experiments.training.entry import say
from experiments.training.errors import RunError, UsageError
from experiments.training.metrics import write_json

RECORD = "cells.json"


def run_cells(cells: Sequence[Cell], out: Path) -> dict[str, float]:
  """Runs what is not finished; {name: seconds that each cell took, over all its attempts}.

  A cell that is run again makes those that read its result unfinished. `out` gets a record of the
  commands. UsageError where a cell was finished by another command, RunError where one fails; what
  was finished before stays.
  """
  out.mkdir(parents=True, exist_ok=True)
  record = _read(out / RECORD)

  def finished(cell: Cell) -> bool:
    return bool(record.get(cell.name, {}).get("finished")) and cell.result.exists()

  for cell in cells:
    if finished(cell) and record[cell.name]["command"] != cell.line:
      raise UsageError(
        f"--out {out}: {cell.name} was made by another command ({record[cell.name]['command']}); "
        "name another folder, or remove this one"
      )
  left: list[Cell] = []
  for cell in cells:
    if not finished(cell) or {one.name for one in left} & set(cell.needs):
      left.append(cell)
  if done := len(cells) - len(left):
    say(f"study: {done} of {len(cells)} cells are finished")
  took: list[float] = []
  for cell in left:
    number = done + len(took) + 1
    say(f"\nstudy: {number}/{len(cells)} {cell.name}{_eta(took, len(left))}\n{cell.line}")
    before = record.get(cell.name, {})
    begun_before = 0.0 if before.get("finished") else float(before.get("seconds", 0.0))
    began = time.monotonic()
    outcome = _run(cell)
    took.append(time.monotonic() - began)
    record[cell.name] = {
      "command": cell.line,
      "seconds": begun_before + took[-1],
      "finished": outcome.ended_well,
    }
    write_json(out / RECORD, record)
    outcome.judge(cell)
  return {cell.name: float(record[cell.name]["seconds"]) for cell in cells}


class _Outcome(NamedTuple):
  """code: of the cell's process. stop: signal that asked the study to stop; 0 for none."""

  code: int
  stop: int

  @property
  def ended_well(self) -> bool:
    """Whether the cell finished, even if the study is to stop behind it."""
    return self.code == 0

  def judge(self, cell: Cell) -> None:
    """Ends the study where it was asked to, or where the cell failed or left nothing."""
    by_signal = {code: number for number in _SIGNALS for code in (-number, 128 + number)}
    stop = self.stop or by_signal.get(self.code, 0)
    if stop:
      place = "behind" if self.ended_well else "in"
      say(f"study: stopped {place} {cell.name}; the same command goes on there")
      raise SystemExit(128 + stop)
    if self.code:
      raise RunError(
        f"{cell.name} failed with exit code {self.code}; the same command goes on with it"
      )
    if not cell.result.exists():
      raise RunError(f"{cell.name} ended well but left no {cell.result}")


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _run(cell: Cell) -> _Outcome:
  """Runs a cell's process; a stop that is asked for meanwhile reaches it and is remembered."""
  stops: list[int] = []
  processes: list[subprocess.Popen] = []

  def stop(number: int, frame: FrameType | None) -> None:
    del frame
    stops.append(number)
    # Ctrl-C reaches the cell by itself, being sent to the whole group.
    if number == signal.SIGTERM and processes:
      processes[0].send_signal(number)

  before = {number: signal.signal(number, stop) for number in _SIGNALS}
  try:
    processes.append(subprocess.Popen((sys.executable, *cell.command)))
    if signal.SIGTERM in stops:  # before there was a process to pass it to
      processes[0].send_signal(signal.SIGTERM)
    code = processes[0].wait()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  return _Outcome(code, stops[0] if stops else 0)


def _eta(took: Sequence[float], left: int) -> str:
  if not took:
    return ""
  minutes = sum(took) / len(took) * (left - len(took)) / 60
  return f", about {minutes:.0f} min left"


def _read(path: Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    return {}
  except ValueError:
    raise RunError(f"{path}: damaged; remove it, and finished cells are checked anew") from None
