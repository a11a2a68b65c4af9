"""The synthetic corpus as a labelled set: an evaluation that needs no file."""

from __future__ import annotations

import numpy as np

from pipelines.errors import DataError
from pipelines.synthetic import CLASSES, label_of, render
from pipelines.tasks.labelled import SAMPLE_RATE, LabelledSet

FOLDS = 5
# Apart from the seeds that runs use for training, so that no evaluated clip was ever trained on.
SEED = 20_000


def synthetic(clips: str = "", seconds: float | int = 4.0, seed: int = SEED) -> LabelledSet:
  """Five folds of equal make-up. `clips` is their number as written in the task, or 500."""
  if clips and not clips.isdecimal():
    raise DataError(
      f"synthetic: {clips!r} is not a number of clips; write for example synthetic=500"
    )
  count = int(clips or 500)
  return LabelledSet(
    name="synthetic",
    ids=[f"synthetic/{seed}/{i:06d}" for i in range(count)],
    labels=np.array([label_of(i) for i in range(count)], np.int32),
    groups=[f"fold{i // len(CLASSES) % FOLDS + 1}" for i in range(count)],
    classes=CLASSES,
    load=lambda i, rate=SAMPLE_RATE: render(i, seed, seconds, rate)[0],
    content=lambda i: f"synthetic/{seed}/{i}/{seconds}",
  )
