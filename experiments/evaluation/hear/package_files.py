"""A task with its embeddings as the public package `heareval` reads them.

For each part: PART.embeddings.npy (float32 rows without a header), PART.embedding-dimensions.json,
PART.target-labels.pkl (a list of labels for each row), PART.json, and of tasks over time
PART.filename-timestamps.json. Source: `heareval` 2021.1.3.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.evaluation.hear.embeddings import Part
from experiments.evaluation.hear.folder import TaskFolder
from pipelines.tasks.hear import METADATA, VOCABULARY


def write_package_files(folder: TaskFolder, parts: Mapping[str, Part], out: Path) -> None:
  """Writes all parts of a task to a folder that is there."""
  for name in (METADATA, VOCABULARY, *(f"{part}.json" for part in folder.parts)):
    shutil.copyfile(folder.path / name, out / name)
  for name, part in parts.items():
    np.ascontiguousarray(part.x, dtype="<f4").tofile(out / f"{name}.embeddings.npy")
    _write(out / f"{name}.embedding-dimensions.json", list(part.x.shape))
    labels = [[folder.labels[k] for k in np.flatnonzero(row)] for row in part.y]
    (out / f"{name}.target-labels.pkl").write_bytes(pickle.dumps(labels))
    if folder.events:
      moments = zip(part.owner.tolist(), part.times.tolist(), strict=True)
      rows = [(part.files[owner], time) for owner, time in moments]
      _write(out / f"{name}.filename-timestamps.json", rows)


def _write(path: Path, content: object) -> None:
  path.write_text(json.dumps(content), encoding="utf-8")
