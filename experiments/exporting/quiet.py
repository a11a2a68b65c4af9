"""Converters talk: greetings, progress bars, warnings of one part about another."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

from experiments.training.cli import DEBUG_VARIABLE


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Within it nothing reaches standard output or error, not from C++ either.

  What goes wrong comes as an exception. DASHENG_DEBUG=1 lets everything through.
  """
  if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
    yield
    return
  _flush()
  kept = [os.dup(stream) for stream in (1, 2)]
  try:
    with tempfile.TemporaryFile() as away, warnings.catch_warnings():
      warnings.simplefilter("ignore")
      for stream in (1, 2):
        os.dup2(away.fileno(), stream)
      try:
        yield
      finally:
        _flush()
  finally:
    for stream, copy in zip((1, 2), kept, strict=True):
      os.dup2(copy, stream)
      os.close(copy)


def _flush() -> None:
  sys.stdout.flush()
  sys.stderr.flush()
