"""One contender of a benchmark: a process that prepares a case once and times calls on demand.

Lines of JSON in both directions: {"case": {...}, "calls": 5} -> {"ms": [...]} or {"skip": reason}.
Other requests and answers are between a command and its worker; notes may come before an answer.
Between its turns a contender waits for the next line and uses no core, so that the rounds of all
contenders can alternate on one machine. Each has the Python it needs: the PyTorch side can run in
an environment of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.training.errors import RunError


class Skipped(Exception):
  """A contender cannot run a case; the text says why."""


class Contender:
  """A worker process; a context manager that ends it.

  Args:
    name: for messages and tables.
    command: the worker's program and arguments.
    threads: of every pool in it.
    env: more environment variables.
  """

  def __init__(
    self, name: str, command: Sequence[str], threads: int, env: Mapping[str, str] | None = None
  ):
    self.name = name
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")
    # Passive: threads that spin while another contender has its turn would slow that one down.
    settings = {**dict.fromkeys(pools, str(threads)), "OMP_WAIT_POLICY": "PASSIVE"}
    self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
    try:
      self._process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=self._errors,
        text=True,
        env={**os.environ, **settings, **(env or {})},
      )
    except OSError as error:
      raise RunError(f"{name}: cannot start {command[0]}: {error.strerror or error}") from None

  def time(self, case: Mapping[str, Any], calls: int) -> list[float]:
    """Milliseconds of `calls` calls, after preparing and warming up on the first request.

    Raises Skipped where the contender cannot run the case, RunError where its process died.
    """
    return self.ask({"case": dict(case), "calls": calls})["ms"]

  def ask(
    self, request: Mapping[str, Any], noted: Callable[[Any], None] | None = None
  ) -> dict[str, Any]:
    """The answer to a request; `noted` gets what {"note": ...} brings on the way.

    Raises Skipped where the worker answers {"skip": reason}, RunError where its process died.
    """
    assert self._process.stdin is not None
    assert self._process.stdout is not None
    with contextlib.suppress(OSError, ValueError):
      self._process.stdin.write(json.dumps(request) + "\n")
      self._process.stdin.flush()
      while line := self._process.stdout.readline():
        if not line.startswith("{"):  # libraries print what they like besides
          continue
        answer = json.loads(line)
        if "skip" in answer:
          raise Skipped(answer["skip"])
        if "note" not in answer:
          return answer
        if noted:
          noted(answer["note"])
    self._errors.seek(0)
    said = [line for line in self._errors.read().splitlines() if line.strip()]
    raise RunError(f"{self.name}: the worker ended: {said[-1] if said else 'it said nothing'}")

  def __enter__(self) -> Contender:
    return self

  def __exit__(self, *_: object) -> None:
    if self._process.stdin is not None:
      with contextlib.suppress(OSError):
        self._process.stdin.close()
    try:
      self._process.wait(timeout=10)
    except subprocess.TimeoutExpired:
      self._process.kill()
    self._errors.close()
