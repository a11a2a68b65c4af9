"""The worker's side of `contender.py`: reads requests, times calls. Needs nothing but Python."""

import json
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


def _prepared(prepare: Callable, case: dict[str, Any]) -> Callable[[], Any] | str:
  try:
    call = prepare(case)
  except (ImportError, LookupError, FileNotFoundError) as error:
    return f"{type(error).__name__}: {error}"
  for _ in range(WARM_UP):
    call()
  return call
