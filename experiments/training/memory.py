"""Memory that the process has freed, handed back to the system."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def hand_back() -> None:
  """Gives the pages of freed memory back, where the C library can (glibc); a few milliseconds.

  Dozens of threads take and free buffers of every size, and glibc keeps one heap for several of
  them: what is free in one heap serves no other. In a run of hours the process would hold more and
  more that nobody uses, although what is in use stays the same (docs/faults.md, row 13).
  """
  if trim := _trim():
    trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
  try:
    return ctypes.CDLL(None).malloc_trim
  except (OSError, AttributeError, TypeError):
    return None
