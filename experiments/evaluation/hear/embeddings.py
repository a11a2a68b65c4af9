"""Embeddings of every part of a task, kept on disk: they cost more than what is made of them."""

from __future__ import annotations

import json
import random
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from experiments.embedding.store import DAMAGED, write_npz
from experiments.evaluation.batched import batched
from experiments.evaluation.cache import surroundings
from experiments.evaluation.hear.events import moment_targets
from experiments.evaluation.hear.folder import TaskFolder
from pipelines.errors import DataError
from pipelines.progress import Progress

ORDER_SEED = 0


class Hears(Protocol):
  """What the benchmark asks of a model; all that `open_encoder` opens have it."""

  sample_rate: int
  settings: dict[str, Any]

  def group(self, samples: int) -> Hashable:
    """Clips of one group can go through together."""

  def rows(self, group: Hashable) -> int:
    """Clips that fill a batch of this group."""

  def scenes(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """f32[d] of each clip."""

  def over_time(self, waves: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(f32[n, d], centres f32[n] in ms) of each clip."""


class Part(NamedTuple):
  """The embeddings of one part, or of parts that were joined.

  Attributes:
    x: f32[n, d], a row for each clip, or each moment of each clip.
    y: f32[n, k], 1 for each label of the row, else 0.
    files: names of the clips, in their order.
    owner: i32[n], which clip a row is of.
    times: f64[n] in ms; zeros where rows are clips.
  """

  x: np.ndarray
  y: np.ndarray
  files: tuple[str, ...]
  owner: np.ndarray
  times: np.ndarray


def embed_parts(folder: TaskFolder, model: Hears, out: Path) -> dict[str, Part]:
  """The embeddings of all parts; `out` keeps them, and those that it has are not made again.

  They are where code, libraries or the folder's sample rates have changed. Edited audio of the same
  name is not noticed.

  Clips come in the order in which the public package stores them: those of PART.json, shuffled by
  Python's generator, which is seeded with 0 and goes on from part to part.
  """
  out.mkdir(parents=True, exist_ok=True)
  told = {
    "model": model.settings,
    "events": folder.events,
    "rates": list(folder.source.rates),
    "made_by": surroundings(),
  }
  order = random.Random(ORDER_SEED)
  parts = {}
  for part in folder.parts:
    truth = folder.truth(part)
    files = list(truth)
    order.shuffle(files)
    path = out / f"{part}.npz"
    stored = _stored(path, files, told)
    if stored is None:
      stored = _embed(folder, part, files, model)
      _keep(path, stored, files, told)
    parts[part] = _with_targets(folder, truth, files, *stored)
  return parts


def kept_parts(folder: TaskFolder, kept: Path) -> dict[str, Part]:
  """The embeddings of all parts that `embed_parts` has kept in a folder, whatever model made them.

  Raises DataError for a part that is missing, damaged, or of other clips than the task's.
  """
  parts = {}
  for part in folder.parts:
    path, truth = kept / f"{part}.npz", folder.truth(part)
    try:
      with np.load(path) as arrays:
        files = json.loads(str(arrays["told"]))["files"]
        rows = arrays["x"], arrays["owner"], arrays["times"]
    except DAMAGED as error:
      raise DataError(
        f"{path}: {error}; evaluate --suite hear keeps embeddings in HEAR_OUT/MODEL/TASK/embeddings"
      ) from None
    if sorted(files) != sorted(truth):
      raise DataError(f"{path}: the clips are not those of {folder.path / part}.json")
    parts[part] = _with_targets(folder, truth, files, *rows)
  return parts


def join(parts: Sequence[Part]) -> Part:
  """One part after the other."""
  counts = np.cumsum([0, *(len(part.files) for part in parts)])
  return Part(
    np.concatenate([part.x for part in parts]),
    np.concatenate([part.y for part in parts]),
    tuple(file for part in parts for file in part.files),
    np.concatenate([part.owner + n for part, n in zip(parts, counts, strict=False)]),
    np.concatenate([part.times for part in parts]),
  )


def _with_targets(
  folder: TaskFolder,
  truth: Mapping[str, Any],
  files: Sequence[str],
  x: np.ndarray,
  owner: np.ndarray,
  times: np.ndarray,
) -> Part:
  if folder.events:
    rows = [moment_targets(truth[f], times[owner == i], folder.labels) for i, f in enumerate(files)]
    targets = np.concatenate(rows)
  else:
    targets = np.zeros((len(files), len(folder.labels)), np.float32)
    number = {label: i for i, label in enumerate(folder.labels)}
    for i, file in enumerate(files):
      targets[i, [number[label] for label in truth[file]]] = 1.0
  return Part(x, targets, tuple(files), owner, times)


def _embed(
  folder: TaskFolder, part: str, files: Sequence[str], model: Hears
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(embeddings, owners, times) of the rows of one part, clip after clip."""
  waves = ((i, folder.load(part, file, model.sample_rate)) for i, file in enumerate(files))

  def embed(waves: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    if folder.events:
      return model.over_time(waves)
    return [(scene[None], np.zeros(1)) for scene in model.scenes(waves)]

  def rows_of(group: Hashable) -> int:
    return 1 if folder.events else model.rows(group)

  def where(i: int) -> str:
    return f"{folder.path / part}: {files[i]}"

  found = {}
  with Progress(f"embedding {folder.path.name} {part}", len(files), "clips") as bar:
    for i, made in batched(waves, model.group, rows_of, embed, where):
      found[i] = made
      bar.add()
  rows = [found[i] for i in range(len(files))]
  x = np.concatenate([x for x, _ in rows]).astype(np.float32)
  if not np.isfinite(x).all():
    raise DataError(f"{folder.path / part}: the model has embeddings that are not finite")
  owner = np.repeat(np.arange(len(files)), [len(x) for x, _ in rows]).astype(np.int32)
  return x, owner, np.concatenate([times for _, times in rows]).astype(np.float64)


def _keep(path: Path, rows: tuple, files: Sequence[str], told: Mapping[str, Any]) -> None:
  x, owner, times = rows
  said = json.dumps({"files": list(files), **told}, sort_keys=True)
  write_npz(path, {"x": x, "owner": owner, "times": times, "told": np.array(said)})


def _stored(path: Path, files: Sequence[str], told: Mapping[str, Any]) -> tuple | None:
  """What was kept for these files and this model; None where there is nothing, or other things."""
  try:
    with np.load(path) as kept:
      if str(kept["told"]) != json.dumps({"files": list(files), **told}, sort_keys=True):
        return None
      return kept["x"], kept["owner"], kept["times"]
  except DAMAGED:
    return None
