"""Memory as the C library sees it: what is in use, and what was freed and can be handed back."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any, ClassVar

_ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h


def hand_back() -> None:
  """Gives the pages of freed memory back, where the C library can (glibc); a few milliseconds.

  Dozens of threads take and free buffers of every size, and glibc keeps one heap for several of
  them: what is free in one heap serves no other. In a run of hours the process would hold more and
  more that nobody uses, although what is in use stays the same (docs/faults.md, row 13).
  """
  if trim := _trim():
    trim(0)


def few_heaps() -> None:
  """Keeps glibc to one heap per core; call it before threads begin.

  Its default is eight for each core. Every heap keeps what was freed in it to itself, so that the
  resident size creeps up as threads and sizes happen to meet; see `hand_back`.
  """
  with contextlib.suppress(OSError, AttributeError, TypeError):
    ctypes.CDLL(None).mallopt(_ARENA_MAX, max(2, os.cpu_count() or 1))


def in_use() -> float:
  """Bytes that were asked for and not yet freed, in all heaps; 0 where the C library cannot tell.

  The resident size also counts pages that hold little else than freed pieces, and comes and goes
  with what threads happen to do.
  """
  if (info := _mallinfo()) is None:
    return 0.0
  told = info()
  return float(told.uordblks + told.hblkhd)


class _Info(ctypes.Structure):
  """What mallinfo2 of glibc returns, in bytes."""

  _fields_: ClassVar = [
    (name, ctypes.c_size_t)
    for name in (
      *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
      *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
    )
  ]


@functools.cache
def _mallinfo() -> Callable[[], Any] | None:
  try:
    function = ctypes.CDLL(None).mallinfo2
  except (OSError, AttributeError, TypeError):
    return None
  function.restype = _Info
  return function


@functools.cache
def _trim() -> Callable[[int], int] | None:
  try:
    return ctypes.CDLL(None).malloc_trim
  except (OSError, AttributeError, TypeError):
    return None
