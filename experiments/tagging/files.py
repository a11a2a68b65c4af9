"""From recordings to probabilities, in order: windows of all files share batches."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from experiments.audio_files import read_blocks, read_wave
from experiments.audio_formats import explained
from experiments.tagging.models import Tagger
from experiments.tagging.windows import End, Window, cut, lengthened
from pipelines.errors import BadAudio

# Windows that are read and resampled while the networks run.
WINDOWS_AHEAD = 16
NOT_FINITE = "its tags are not finite: are its samples within [-1, 1]?"
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Plan:
  """How a recording is cut, in seconds.

  window, hop: of the windows; a window of None takes every recording in one piece.
  end: see `cut`.
  share: clips shorter than a window are lengthened to a multiple of this; 0: left as they are.
  """

  window: float | None = 10.0
  hop: float = 10.0
  end: End = "back"
  share: float = 0.0


@dataclasses.dataclass
class Tagged:
  """A recording and what was heard in it.

  seconds: its length. spans: (start, end) of each window in seconds, within the recording.
  probabilities: f32[n, classes]. error: why it is unusable; the rest is then without meaning.
  """

  path: Path
  seconds: float = 0.0
  spans: list[tuple[float, float]] = dataclasses.field(default_factory=list)
  rows: list[np.ndarray] = dataclasses.field(default_factory=list)
  error: str = ""
  read: bool = False

  @property
  def probabilities(self) -> np.ndarray:
    """f32[n, classes]."""
    return np.stack(self.rows)

  def summary(self, over: Literal["mean", "max"]) -> np.ndarray:
    """f32[classes]: mean or largest probability over the windows."""
    return getattr(np, over)(self.probabilities, axis=0)

  @property
  def complete(self) -> bool:
    """Whether nothing is left to do."""
    return self.read and (bool(self.error) or len(self.rows) == len(self.spans))


def tag_files(paths: Iterable[Path], tagger: Tagger, plan: Plan) -> Iterator[Tagged]:
  """Every recording once, in order; one that is unusable has an `error`, the others go on."""
  waiting: collections.deque[Tagged] = collections.deque()
  pending: list[tuple[Tagged, np.ndarray]] = []

  def run() -> None:
    if pending:
      rows = tagger.probabilities(np.stack([wave for _, wave in pending]))
      for (owner, _), row in zip(pending, rows, strict=True):
        owner.rows.append(row)
        if not owner.error and not np.isfinite(row).all():
          owner.error = f"{owner.path}: {NOT_FINITE}"
      pending.clear()

  for path, piece in ahead(_pieces(paths, tagger, plan), WINDOWS_AHEAD if plan.window else 1):
    if not waiting or waiting[-1].read:
      waiting.append(Tagged(path))
    file = waiting[-1]
    if isinstance(piece, Window):
      file.spans.append((piece.start / tagger.rate, piece.stop / tagger.rate))
      file.seconds = max(file.seconds, piece.stop / tagger.rate)
      # A batch has one length. Running at once what waits keeps the results in order.
      if pending and len(pending[0][1]) != len(piece.wave):
        run()
      pending.append((file, piece.wave))
      if len(pending) == tagger.batch:
        run()
    else:
      file.read, file.error = True, file.error or piece
    while waiting and waiting[0].complete:
      yield waiting.popleft()
  run()
  yield from waiting


def ahead(items: Iterable[Item], count: int) -> Iterator[Item]:
  """The same items in order; a thread makes up to `count` before they are asked for."""
  source: Iterator[Item] = iter(items)
  end: Any = object()
  pool = ThreadPoolExecutor(1, "read")
  try:
    coming = collections.deque(pool.submit(next, source, end) for _ in range(count))
    while (item := coming.popleft().result()) is not end:
      coming.append(pool.submit(next, source, end))
      yield item
  finally:
    pool.shutdown(cancel_futures=True)


def _pieces(
  paths: Iterable[Path], tagger: Tagger, plan: Plan
) -> Iterator[tuple[Path, Window | str]]:
  """(file, window) for each window, and at the end of a file (file, what was wrong or "")."""
  for path in paths:
    error = ""
    try:
      for window in _windows(path, tagger, plan):
        yield path, window
    except BadAudio as problem:
      error = explained(path, str(problem))
    yield path, error


def _windows(path: Path, tagger: Tagger, plan: Plan) -> Iterator[Window]:
  if plan.window is None:
    wave = read_wave(path, tagger.rate)
    windows: Iterable[Window] = [Window(0, len(wave), wave)]
  else:
    size, hop = (max(1, round(t * tagger.rate)) for t in (plan.window, plan.hop))
    windows = cut(read_blocks(path, tagger.rate), size, hop, plan.end)
  for window in windows:
    wave = window.wave
    if len(wave) < tagger.min_samples:
      least = 1000 * tagger.min_samples / tagger.rate
      raise BadAudio(f"{path}: {len(wave)} samples are too short; {least:.0f} ms are needed")
    if plan.window is not None and plan.share and len(wave) < round(plan.window * tagger.rate):
      wave = lengthened(wave, round(plan.share * tagger.rate))
    yield window._replace(wave=wave)
