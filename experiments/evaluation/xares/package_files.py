"""Averaged embeddings of a task as the public package `xares` reads them: a tar for each part.

A row is a KEY.npy of one moment, f32[1, d], which averages to itself, and a KEY.json with its class
number, or a 0.0 or 1.0 for every class. Source: `xares` 0.1.3.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np

from experiments.evaluation.xares.pooled import Pooled
from experiments.evaluation.xares.tars import Task


def write_package_files(task: Task, pooled: Pooled, out: Path) -> dict[str, Path]:
  """Writes the parts to a folder that is there: {name: file}.

  Names are train, valid and test, or the numbers of the folds, in the order of `task.parts`.
  """
  files = {}
  for number, (part, clips) in enumerate(task.parts.items()):
    name = str(number) if task.folds else part
    files[name] = out / f"{name}.tar"
    with tarfile.open(files[name], "w") as tar:
      for row in pooled.rows_of(clips):
        array = io.BytesIO()
        np.save(array, pooled.x[row][None])
        label = task.targets[pooled.clip[row]].tolist()
        _add(tar, f"{row}.npy", array.getvalue())
        _add(tar, f"{row}.json", json.dumps({"label": label}).encode())
  return files


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
  member = tarfile.TarInfo(name)
  member.size = len(content)
  tar.addfile(member, io.BytesIO(content))
