"""Embeddings of whole labelled sets, each as if the clip were alone, kept on disk where asked."""

from __future__ import annotations

from experiments.embedding.embedder import Embedder, Embedding
from experiments.evaluation.batched import batched
from experiments.evaluation.cache import Cache
from pipelines.progress import Progress
from pipelines.tasks import LabelledSet


def embed_clips(
  embedder: Embedder, labelled_set: LabelledSet, cache: Cache | None = None
) -> list[Embedding]:
  """The embedding of every clip, in the order of the set; the cache gives and takes what it can.

  Raises DataError for a clip that the network cannot hear, such as one that is too short.
  """
  count = len(labelled_set)
  keys = _keys(embedder, labelled_set) if cache else []
  made: dict[int, Embedding] = {}
  if cache:
    kept = cache.read(keys)
    made = {i: kept[key] for i, key in enumerate(keys) if key in kept}
  left = [i for i in range(count) if i not in made]
  waves = ((i, labelled_set.load(i, embedder.sample_rate)) for i in left)

  def where(i: int) -> str:
    return f"{labelled_set.name}: clip {labelled_set.ids[i]!r}"

  try:
    with Progress(f"embedding {labelled_set.name}", count, "clips") as bar:
      bar.skip(len(made))
      for i, one in batched(waves, embedder.group, embedder.rows, embedder.embed, where):
        made[i] = one
        if cache:
          cache.add(keys[i], one)
        bar.add()
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
