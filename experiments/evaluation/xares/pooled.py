"""One averaged embedding for every piece of every clip of a task, kept on disk where asked for.

A block of clips is written as soon as it is done, so that a killed run goes on behind it. Folders
are named by what decides the numbers: weights and settings of the encoder, ids and targets of the
task. Audio that is edited under the same name is not noticed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.embedding.store import DAMAGED, write_npz
from experiments.evaluation.batched import batched
from experiments.evaluation.cache import surroundings
from experiments.evaluation.xares.tars import Task
from experiments.xares.load import Frames
from pipelines.errors import DataError
from pipelines.progress import Progress

BLOCK_CLIPS = 2000
_DIGITS = 8


class Pooled(NamedTuple):
  """x: f32[m, d], an embedding of each piece. clip: i32[m], the clip that it is of; ascending."""

  x: np.ndarray
  clip: np.ndarray

  def rows_of(self, clips: np.ndarray) -> np.ndarray:
    """Numbers of the pieces of some clips."""
    return np.flatnonzero(np.isin(self.clip, clips))


def pooled_task(source: Frames, task: Task, folder: Path | None = None) -> Pooled:
  """The embeddings of a task; blocks that `folder` has are read from there, new ones kept there.

  Raises DataError for a clip without samples, or whose embedding is not finite.
  """
  firsts = range(0, len(task.ids), BLOCK_CLIPS)
  blocks = []
  with Progress(f"embedding {task.name}", len(task.ids), "clips") as bar:
    for first in firsts:
      clips = range(first, min(first + BLOCK_CLIPS, len(task.ids)))
      path = folder / f"block{first // BLOCK_CLIPS:05d}.npz" if folder else None
      block = _read(path)
      if block:
        bar.skip(len(clips))
      else:
        block = _embedded(source, task, clips, bar)
        if path:
          write_npz(path, block._asdict())
      blocks.append(block)
  return Pooled(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def task_folder(work: str, name: str, source: Frames, task: Task) -> Path | None:
  """Where the embeddings of a task by an encoder of this name are kept; None where nowhere."""
  if not work:
    return None
  facts = [list(task.ids), task.targets.tolist(), task.crop_seconds]
  facts.append([list(task.parts), [part.tolist() for part in task.parts.values()]])
  encoder = re.sub(r"[^-.\w]", "_", name) + f"-{_digest([source.settings, surroundings()])}"
  return Path(work).expanduser() / encoder / f"{task.name}-{_digest(facts)}"


def _digest(content: object) -> str:
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def _read(path: Path | None) -> Pooled | None:
  """What a block's file holds; None where there is none, or a damaged one."""
  if path is None or not path.is_file():
    return None
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return Pooled(arrays["x"], arrays["clip"])
  except DAMAGED:
    return None


def _embedded(source: Frames, task: Task, clips: range, bar: Progress) -> Pooled:
  def where(key: tuple[int, int]) -> str:
    return f"{task.name}: clip {task.ids[key[0]]!r}"

  def waves() -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    for clip in clips:
      for place, wave in enumerate(task.pieces(clip, source.sampling_rate)):
        if not wave.size:
          raise DataError(f"{where((clip, place))} is empty")
        yield (clip, place), wave
      bar.add()

  found = batched(waves(), source.group, source.rows, source.frames, where)
  made = {key: frames.mean(axis=0) for key, frames in found}
  order = sorted(made)
  x = np.stack([made[key] for key in order]).astype(np.float32)
  if not np.isfinite(x).all():
    clip = order[int(np.argmin(np.isfinite(x).all(axis=1)))][0]
    raise DataError(f"{task.name}: the embedding of clip {task.ids[clip]!r} is not finite")
  return Pooled(x, np.array([clip for clip, _ in order], np.int32))
