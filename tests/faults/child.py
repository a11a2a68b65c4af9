"""Feeds damaged files to a reader: `python -m tests.faults.child MODULE NAME COUNT DIR`.

A decoder in C can take its process with it, or never return, so the fuzzing goes on in a child. It
writes each input to LAST in DIR before it is read: whoever finds the child dead has what killed it.
After DEADLINE seconds at one input it ends itself with the traces of its threads, and an input that
wants more than MEMORY fails.
"""

import dataclasses
import faulthandler
import importlib
import json
import os
import pathlib
import resource
import sys
import time
import traceback

DEADLINE = 20.0
MEMORY = 2 << 30  # address space beyond what the child has when it begins
LAST = "last-input.bin"


@dataclasses.dataclass
class Tally:
  """What became of the inputs, all of them different; the slowest in seconds."""

  inputs: int = 0
  refused: int = 0
  accepted: int = 0
  slowest: float = 0.0


def fuzz(reader, count: int, folder: pathlib.Path) -> Tally:
  """Gives `count` different files to a reader, the same ones each time; raises what it finds."""
  from hypothesis import HealthCheck, Phase, given, seed, settings

  from tests.faults.damage import damaged

  tally, seen = Tally(), set()

  def go(number: int, goal: int) -> None:
    @seed(20 + number)
    @settings(
      max_examples=2 * (goal - tally.inputs) + 100,
      deadline=None,
      database=None,
      phases=(Phase.generate, Phase.shrink),
      suppress_health_check=list(HealthCheck),
      report_multiple_bugs=False,
    )
    @given(damaged(reader.originals[number]))
    def feed(damage):
      if tally.inputs >= goal or (number, damage.data) in seen:  # many are drawn twice
        return
      (folder / LAST).write_bytes(damage.data)
      faulthandler.dump_traceback_later(DEADLINE, exit=True)
      began = time.perf_counter()
      refused = reader.read(number, damage)
      tally.slowest = max(tally.slowest, time.perf_counter() - began)
      faulthandler.cancel_dump_traceback_later()
      seen.add((number, damage.data))
      tally.inputs += 1
      tally.refused += refused
      tally.accepted += not refused

    feed()

  for number in range(len(reader.originals)):
    go(number, round(count * (number + 1) / len(reader.originals)))
  return tally


def main(module: str, name: str, count: int, folder: pathlib.Path) -> int:
  """The exit code: 0 with the tally on standard output, or 3 with what was found."""
  faulthandler.enable()
  reader = importlib.import_module(module).READERS[name](folder)
  with open("/proc/self/statm", encoding="ascii") as file:
    most = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY
  resource.setrlimit(resource.RLIMIT_AS, (most, most))
  try:
    tally = fuzz(reader, count, folder)
  except Exception:
    traceback.print_exc()
    return 3
  print(json.dumps(dataclasses.asdict(tally)))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), pathlib.Path(sys.argv[4])))
