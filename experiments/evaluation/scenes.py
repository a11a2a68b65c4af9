"""Scene embeddings of MN and DyMN over whole labelled sets, each as if the clip were alone."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from experiments.embedding.embedder import Embedder
from pipelines.errors import BadAudio, DataError
from pipelines.progress import Progress
from pipelines.tasks import LabelledSet


def scene_set(embedder: Embedder, labelled_set: LabelledSet) -> np.ndarray:
  """Scene embeddings f32[n, d] of every clip, in the order of the set.

  Raises DataError for a clip that the network cannot hear, such as one that is too short.
  """
  scenes: dict[int, np.ndarray] = {}
  waiting: dict[Hashable, list[tuple[int, np.ndarray]]] = {}

  def flush(group: Hashable) -> int:
    clips = waiting.pop(group)
    made = embedder.embed([wave for _, wave in clips])
    scenes.update((i, one.scene) for (i, _), one in zip(clips, made, strict=True))
    return len(clips)

  with Progress(f"embedding {labelled_set.name}", len(labelled_set), "clips") as bar:
    for i in range(len(labelled_set)):
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
  return np.stack([scenes[i] for i in range(len(labelled_set))])
