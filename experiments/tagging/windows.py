"""Cuts a wave that comes in pieces into windows of equal length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np

End = Literal["pad", "back"]


class Window(NamedTuple):
  """Samples [start, stop) of a recording; zeros may follow them in `wave`."""

  start: int
  stop: int
  wave: np.ndarray


def cut(blocks: Iterable[np.ndarray], window: int, hop: int, end: End) -> Iterator[Window]:
  """Windows of `window` samples every `hop` samples, from f32[s] pieces of one wave.

  end: what is left behind the last whole window.
    "pad": one more window, filled up with zeros (reference text, section 12): for N samples
      max(1, ceil((N - window) / hop) + 1) windows. A wave shorter than a window gives one, where
      the released code gives none for N <= window - hop. Where hop is longer than a window, one
      that would begin behind the end is left out.
    "back": the last `window` samples, so nothing is padded; a wave shorter than a window is given
      as it is.

  No samples give no window.
  """
  held, first, start = np.zeros(0, np.float32), 0, 0
  for block in blocks:
    held = np.concatenate([held, block])
    while start + window <= first + len(held):
      yield Window(start, start + window, held[start - first :][:window])
      start += hop
    drop = max(0, min(start, first + len(held) - window) - first)
    held, first = held[drop:], first + drop
  total = first + len(held)
  covered = start - hop + window if start else 0
  if covered >= total:
    return
  if end == "back":
    yield Window(max(0, total - window), total, held[-window:])
  elif start < total:
    rest = held[start - first :]
    yield Window(start, total, np.pad(rest, (0, window - len(rest))))


def lengthened(wave: np.ndarray, multiple: int) -> np.ndarray:
  """The wave repeated from its start up to the next multiple of so many samples."""
  return np.resize(wave, -(-len(wave) // multiple) * multiple)
