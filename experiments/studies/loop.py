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
from typing import Any

from experiments.studies.cell import Cell
from experiments.training.entry import say
from experiments.training.errors import RunError, UsageError
from experiments.training.metrics import write_json

RECORD = "cells.json"


def run_cells(cells: Sequence[Cell], out: Path) -> dict[str, float]:
  """Runs what is not finished; {name: seconds that each cell took}.

  `out` gets a record of the finished commands. UsageError where a cell was finished by another
  command, RunError where one fails; what was finished before stays.
  """
  out.mkdir(parents=True, exist_ok=True)
  record = _read(out / RECORD)
  for cell in cells:
    made = record.get(cell.name)
    if made and cell.result.exists() and made["command"] != cell.line:
      raise UsageError(
        f"--out {out}: {cell.name} was made by another command ({made['command']}); name another "
        "folder, or remove this one"
      )
  left = [c for c in cells if not (c.name in record and c.result.exists())]
  if done := len(cells) - len(left):
    say(f"study: {done} of {len(cells)} cells are finished")
  took: list[float] = []
  for cell in left:
    began = time.monotonic()
    number = len(cells) - len(left) + len(took) + 1
    say(f"\nstudy: {number}/{len(cells)} {cell.name}{_eta(took, len(left))}\n{cell.line}")
    _run(cell)
    took.append(time.monotonic() - began)
    record[cell.name] = {"command": cell.line, "seconds": took[-1]}
    write_json(out / RECORD, record)
  return {cell.name: float(record[cell.name]["seconds"]) for cell in cells}


def _run(cell: Cell) -> None:
  process = subprocess.Popen((sys.executable, *cell.command))

  def pass_on(number: int, frame: FrameType | None) -> None:
    del frame
    process.send_signal(number)

  # A cell saves where it stands; Ctrl-C reaches it by itself, being sent to the whole group.
  before = {
    signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
    signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
  }
  try:
    code = process.wait()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  if code in (128 + signal.SIGTERM, 128 + signal.SIGINT):
    say(f"study: stopped in {cell.name}; the same command goes on there")
    raise SystemExit(code)
  if code:
    raise RunError(f"{cell.name} failed with exit code {code}; the same command goes on with it")
  if not cell.result.exists():
    raise RunError(f"{cell.name} ended well but left no {cell.result}")


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
