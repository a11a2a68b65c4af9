"""From recordings to a store: read ahead in threads, gather batches, embed, write."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.audio_files import read_wave
from experiments.audio_formats import explained
from experiments.embedding.embedder import Embedder, Embedding
from experiments.embedding.source import UNKNOWN, Found, compare, source_of
from experiments.embedding.store import Store
from experiments.training.progress import ProgressLine, duration
from pipelines.errors import BadAudio

# Recordings may wait for others of their length, up to this much audio in all (230 MB at 32 kHz).
WAITING_SECONDS = 1800.0
# The rate is that of the latest batches.
RATE_BATCHES = 20

Read = Callable[[Path, int], np.ndarray]


class Taken(NamedTuple):
  """A recording that was read, f32[s], and its `source_of`."""

  wave: np.ndarray
  source: str


Batch = list[tuple[str, Taken]]


@dataclasses.dataclass
class Report:
  """What became of the recordings. unusable: id -> reason.

  skipped: embedded before. changed: of those to embed, those that had the embedding of another
  recording of their name.
  """

  total: int
  skipped: int = 0
  made: int = 0
  changed: int = 0
  audio_seconds: float = 0.0
  unusable: dict[str, str] = dataclasses.field(default_factory=dict)


def embed_all(
  recordings: Mapping[str, Path],
  embedder: Embedder,
  store: Store,
  *,
  workers: int = 0,
  line: ProgressLine | None = None,
  read: Read = read_wave,
) -> Report:
  """Embeds every recording (id -> file) that the store does not have.

  A recording that is not the one which the store's embedding of its name was made of is embedded
  again. One that cannot be read, is too short, or gives no finite embedding is named, counted and
  left out. workers: reading threads, each holding one recording; 0 for one per core, at most 4.
  """
  line = line or ProgressLine()
  there = compare(recordings, store.source)
  report = Report(len(recordings), skipped=len(there.done), changed=len(there.changed))
  left = {name: path for name, path in recordings.items() if name not in there.done}
  changed = set(there.changed)
  for text in notes(there):
    line.message(text)
  # (time, recordings seen) after the latest batches: what compiles early must not count for long.
  marks = collections.deque([(time.monotonic(), 0)], maxlen=RATE_BATCHES + 1)

  def unusable(name: str, reason: str) -> None:
    report.unusable[name] = reason
    if name in changed:  # what is there is of another recording
      store.drop(name)
    line.message(f"unusable: {reason if name in reason else f'{name}: {reason}'}")

  try:
    for batch in _batches(
      _read_ahead(left, embedder.sample_rate, workers, read), embedder, unusable
    ):
      made = embedder.embed([taken.wave for _, taken in batch])
      for (name, (wave, source)), found in zip(batch, made, strict=True):
        if not _finite(found):
          unusable(name, "its embedding is not finite: are its samples within [-1, 1]?")
          continue
        store.add(name, found, source)
        report.made += 1
        report.audio_seconds += len(wave) / embedder.sample_rate
      marks.append((time.monotonic(), report.made + len(report.unusable)))
      (began, before), (now, seen) = marks[0], marks[-1]
      line.update(progress_text(report, (seen - before) / max(1e-9, now - began)))
  finally:
    store.save()
    line.close()
  return report


def notes(there: Found) -> list[str]:
  """What a user should know of embeddings that are there already, a line each."""
  told = []
  if there.changed:
    told.append(
      f"{len(there.changed):,} of the embeddings that are there were made of other recordings of "
      f"the same name ({there.changed[0]}, say) and are made again"
    )
  if there.unknown:
    told.append(
      f"{len(there.unknown):,} embeddings of an older version do not tell which recordings they "
      "were made of and are taken as they are; delete them to make them again"
    )
  return told


def progress_text(report: Report, rate: float) -> str:
  """Such as "embed 1,200/5,000  41.0 clips/s  1.67 h audio  ETA 1:33  2 unusable".

  rate: recordings per second. The hours are those embedded by this process.
  """
  at = report.skipped + report.made + len(report.unusable)
  eta = (report.total - at) / rate if rate > 0 else None
  parts = [
    f"embed {at:,}/{report.total:,}",
    f"{rate:.1f} clips/s",
    f"{report.audio_seconds / 3600:.2f} h audio",
    f"ETA {duration(eta)}",
  ]
  parts += [f"{len(report.unusable)} unusable"] if report.unusable else []
  return "  ".join(parts)


def _finite(made: Embedding) -> bool:
  return all(bool(np.isfinite(x).all()) for x in made if x is not None)


def _read_ahead(
  left: Mapping[str, Path], rate: int, workers: int, read: Read
) -> Iterator[tuple[str, Future]]:
  """(id, `Taken` to come) in order; a few recordings are read before they are asked for."""
  workers = workers or min(4, os.cpu_count() or 1)
  with ThreadPoolExecutor(workers, "read") as pool:
    rest = iter(left.items())
    coming: collections.deque[tuple[str, Future]] = collections.deque()
    try:
      while True:
        for name, path in itertools.islice(rest, workers - len(coming)):
          coming.append((name, pool.submit(_take, path, rate, read)))
        if not coming:
          return
        yield coming.popleft()
    finally:
      for _, future in coming:
        future.cancel()


def _take(path: Path, rate: int, read: Read) -> Taken:
  # The source comes first: a file that changes in between then differs from it, and is made again.
  try:
    source = source_of(path)
  except OSError:
    source = UNKNOWN  # reading tells what is wrong
  try:
    return Taken(read(path, rate), source)
  except BadAudio as error:
    raise BadAudio(explained(path, str(error))) from None


def _batches(
  waves: Iterator[tuple[str, Future]], embedder: Embedder, unusable: Callable[[str, str], None]
) -> Iterator[Batch]:
  """Batches of one group each: full ones as they fill up, the others when memory asks, or last."""
  waiting: dict[Hashable, Batch] = {}
  held = 0
  for name, future in waves:
    try:
      taken = future.result()
      group = embedder.group(len(taken.wave))
    except BadAudio as error:
      unusable(name, str(error))
      continue
    batch = waiting.setdefault(group, [])
    batch.append((name, taken))
    held += len(taken.wave)
    full = len(batch) >= embedder.rows(group)
    while waiting and (full or held > WAITING_SECONDS * embedder.sample_rate):
      chosen = group if full else max(waiting, key=lambda g: _samples(waiting[g]))
      batch, full = waiting.pop(chosen), False
      held -= _samples(batch)
      yield batch
  yield from waiting.values()


def _samples(batch: Batch) -> int:
  return sum(len(taken.wave) for _, taken in batch)
