"""Embeddings of whole labelled sets, each as if the clip were alone, kept on disk where asked."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from experiments.embedding.embedder import Embedder, Embedding
from experiments.evaluation.cache import Cache
from pipelines.errors import BadAudio, DataError
from pipelines.progress import Progress
from pipelines.tasks import LabelledSet


def scene_set(embedder: Embedder, labelled_set: LabelledSet) -> np.ndarray:
  """Scene embeddings f32[n, d] of every clip, in the order of the set.

  Raises DataError for a clip that the network cannot hear, such as one that is too short.
  """
  return np.stack([made.scene for made in embed_clips(embedder, labelled_set)])


def embed_clips(
  embedder: Embedder, labelled_set: LabelledSet, cache: Cache | None = None
) -> list[Embedding]:
  """The embedding of every clip, in the order of the set; the cache gives and takes what it can.

  Raises DataError as `scene_set` does.
  """
  count = len(labelled_set)
  keys = _keys(embedder, labelled_set) if cache else []
  made: dict[int, Embedding] = {}
  if cache:
    kept = cache.read(keys)
    made = {i: kept[key] for i, key in enumerate(keys) if key in kept}
  waiting: dict[Hashable, list[tuple[int, np.ndarray]]] = {}

  def flush(group: Hashable) -> int:
    clips = waiting.pop(group)
    found = embedder.embed([wave for _, wave in clips])
    for (i, _), one in zip(clips, found, strict=True):
      made[i] = one
      if cache:
        cache.add(keys[i], one)
    return len(clips)

  try:
    with Progress(f"embedding {labelled_set.name}", count, "clips") as bar:
      bar.skip(len(made))
      for i in [i for i in range(count) if i not in made]:
        wave = labelled_set.load(i, embedder.sample_rate)
        try:
          group = embedder.group(wave.size)
        except BadAudio as error:
          raise DataError(f"{labelled_set.name}: clip {labelled_set.ids[i]!r}: {error}") from None
        waiting.setdefault(group, []).append((i, wave))
        if len(waiting[group]) == embedder.rows(group):
          bar.add(flush(group))
      for group in list(waiting):
        bar.add(flush(group))
  finally:
    if cache:  # what an interrupted run has made is made
      cache.save()
  return [made[i] for i in range(count)]


def _keys(embedder: Embedder, labelled_set: LabelledSet) -> list[str]:
  with Progress(f"looking up {labelled_set.name}", len(labelled_set), "clips") as bar:
    keys = []
    for i in range(len(labelled_set)):
      keys.append(labelled_set.content_of(i, embedder.sample_rate))
      bar.add()
  return keys
