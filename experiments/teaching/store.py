"""Stored logits as they are written: part by part, each whole or not at all, and resumable.

What is written is read by `pipelines.teacher`, where the layout is described.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.training.errors import UsageError
from experiments.training.metrics import write_json
from pipelines import columns
from pipelines.columns import PackedStrings
from pipelines.teacher import IDS, LOGITS, RECORD, read_record


class LogitStore:
  """A folder of stored logits that is being filled.

  Attributes: finished, how many parts are there already.

  Args:
    folder: made if absent; one that was begun with the same record goes on.
    record: what decides the logits: classes, models, set and settings.

  Raises UsageError for a folder that was begun with another record.
  """

  def __init__(self, folder: Path, record: Mapping[str, Any]):
    self.folder, self._record = folder, dict(record)
    before = read_record(folder) if folder.is_dir() else None
    self.finished = 0
    if before is not None:
      self.finished = int(before.pop("parts", 0))
      differing = sorted(k for k in {*before, *record} if before.get(k) != self._record.get(k))
      if differing:
        raise UsageError(
          f"--out {folder}: holds logits of another {differing[0]}; name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)

  def add(self, ids: Sequence[str], logits: np.ndarray) -> None:
    """Writes the next part; it counts once all of it is there."""
    if not np.isfinite(logits).all():
      bad = int((~np.isfinite(logits)).any(axis=1).sum())
      raise UsageError(f"the teacher's logits of {bad} of {len(ids)} recordings are not finite")
    path = self.folder / LOGITS.format(self.finished)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
      np.save(file, logits.astype(np.float32))
      file.flush()
      os.fsync(file.fileno())
    part.replace(path)
    columns.save(str(self.folder / IDS.format(self.finished)), {"ids": PackedStrings.pack(ids)})
    self.finished += 1
    write_json(self.folder / RECORD, {**self._record, "parts": self.finished})
