"""The worker's side of `contender.py`: reads requests, answers. Needs nothing but Python."""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 3


def serve(prepare: Callable[[dict[str, Any]], Callable[[], Any]]) -> None:
  """Answers requests until standard input closes.

  prepare: a case to a function that makes one call and returns when its result is there. It may
  raise ImportError, LookupError or FileNotFoundError for a case that it cannot run.
  """
  ready: dict[str, Callable[[], Any] | str] = {}
  for line in sys.stdin:
    request = json.loads(line)
    key = json.dumps(request["case"], sort_keys=True)
    if key not in ready:
      ready[key] = _prepared(prepare, request["case"])
    call = ready[key]
    if isinstance(call, str):
      answer: dict[str, Any] = {"skip": call}
    else:
      call()  # another case had the caches before
      times = []
      for _ in range(request["calls"]):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
      answer = {"ms": times}
    print(json.dumps(answer), flush=True)


def answer(handle: Callable[[dict[str, Any], Callable[[Any], None]], dict[str, Any]]) -> None:
  """Answers requests until standard input closes; what else is printed goes to standard error.

  handle: a request and a function that sends a note to an answer. What it cannot import is told as
  {"skip": reason}.
  """
  out = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)

  def send(message: dict[str, Any]) -> None:
    print(json.dumps(message), file=out, flush=True)

  for line in sys.stdin:
    try:
      send(handle(json.loads(line), lambda note: send({"note": note})))
    except ImportError as error:
      send({"skip": f"{type(error).__name__}: {error}"})


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
  """(what a turn gives, its time on the clock and of the processors in this process)."""
  began, used = time.perf_counter(), time.process_time()
  found = run()
  seconds = time.perf_counter() - began
  return found, {"seconds": seconds, "processor_seconds": time.process_time() - used}


def versions(names: list[str]) -> dict[str, Any]:
  """{"python": ..., name: version} of installed packages; "unknown" where no record tells."""
  found = {"python": ".".join(map(str, sys.version_info[:3]))}
  for name in names:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "unknown"
  return found


def _prepared(prepare: Callable, case: dict[str, Any]) -> Callable[[], Any] | str:
  try:
    call = prepare(case)
  except (ImportError, LookupError, FileNotFoundError) as error:
    return f"{type(error).__name__}: {error}"
  for _ in range(WARM_UP):
    call()
  return call
