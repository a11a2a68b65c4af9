"""The public package `heareval` 2021.1.3, asked for whole tasks.

    python package_hear.py THREADS [FOLDER ...]

Runs under the Python that has PyTorch and the package, or with the FOLDERs that hold it, and
imports nothing of this library. {"versions": [...]} is answered by the versions of those packages.
A task is

    {"folder": as `package_files` writes it, "size": d, "seed": 0, "points": 8, "first_split": true}

and every trained candidate is noted.
"""

import functools
import json
import logging
import pathlib
import random
import shutil
import sys
import time
from typing import Any
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import package_patches
from serve import answer, timed, versions

THREADS, *FOLDERS = sys.argv[1:]
sys.path[1:1] = FOLDERS

GRID_SEED = 42  # the package's own, which shuffles the grid too


@functools.cache
def package():
  """The module of the package that trains."""
  package_patches.for_hear()
  import heareval.predictions.task_predictions as kit
  import torch

  torch.set_num_threads(int(THREADS))
  logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
  return kit


def handle(request, note):
  """The answer to a request."""
  kit = package()
  if "versions" in request:
    return versions(request["versions"])
  folder = pathlib.Path(request["folder"])
  metadata = json.loads((folder / "task_metadata.json").read_text())
  splits = kit.get_splits_from_metadata(metadata)[: 1 if request["first_split"] else None]
  tried = []

  def train(**settings):
    began = time.perf_counter()
    found = train_as_released(**settings)
    told = {"validation": found.validation_score, "epoch": found.epoch}
    tried.append({**point_of(found.conf), **told, "seconds": time.perf_counter() - began})
    note(tried[-1])
    return found

  train_as_released = kit.task_predictions_train
  changed: dict[str, Any] = {
    "task_predictions_train": train,
    "seed_everything": functools.partial(seed, request["seed"]),
    "get_splits_from_metadata": lambda _: splits,
  }
  run = functools.partial(
    kit.task_predictions,
    embedding_path=folder,
    embedding_size=request["size"],
    grid_points=request["points"],
    gpus=None,
    in_memory=True,
    deterministic=True,
    grid="default",
    logger=logging.getLogger("heareval"),
  )
  with mock.patch.multiple(kit, **changed):
    _, times = timed(run)
  told = json.loads((folder / "test.predicted-scores.json").read_text())
  shutil.rmtree(folder / "lightning_logs", ignore_errors=True)  # every candidate's weights
  return {
    **times,
    "point": point_of(told["hparams"]),
    "splits": {name: record(told[name]) for (name,) in (split["test"] for split in splits)},
    "tried": tried[: request["points"]],
  }


def seed(number, _, workers):
  """The grid in its one order; `number` draws initial values and dropout."""
  import torch

  random.seed(GRID_SEED)
  torch.manual_seed(number)


def point_of(conf):
  """What differs between candidates, in the words of our own grid."""
  law = "uniform" if "uniform" in str(conf["initialization"]) else "normal"
  return {
    "hidden_layers": conf["hidden_layers"],
    "initial": law,
    "learning_rate": conf["lr"],
  }


def record(told):
  """The figures of a tested part."""
  scores = {k.removeprefix("test_"): v for k, v in told.items() if k.startswith("test_")}
  scores = {k: v for k, v in scores.items() if k not in ("loss", "score")}
  return {"validation": told["validation_score"], "scores": scores}


if __name__ == "__main__":
  answer(handle)
