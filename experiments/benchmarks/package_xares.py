"""The public package `xares` 0.1.3, asked for its two protocols on averaged embeddings.

    python package_xares.py THREADS [FOLDER ...]

Runs under the Python that has PyTorch and the package, or with the FOLDERs that hold it, and
imports nothing of this library. {"versions": [...]} is answered by the versions of those packages.
A task is

    {"protocol": "linear" or "knn", "seed": 0, "size": d, "classes": k, "folds": true,
     "parts": {"0": FILE.tar, ...} or those of train, valid and test,
     "epochs": 10, "batch_size": 32, "learning_rate": 1e-3, "metric": "accuracy" or "mAP"}
"""

import functools
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import package_patches
from serve import answer, timed, versions

THREADS, *FOLDERS = sys.argv[1:]
sys.path[1:1] = FOLDERS


@functools.cache
def package():
  """The module of the package that trains."""
  package_patches.for_xares()
  import xares.task

  return xares.task


def handle(request, note):
  """The answer to a request."""
  kit = package()
  if "versions" in request:
    return versions(request["versions"])
  with tempfile.TemporaryDirectory() as folder:

    def run():
      task = task_of(kit, request, folder)
      return task.run_mlp() if request["protocol"] == "linear" else task.run_knn()

    (score, _), times = timed(run)
  return {"score": float(score), **times}


def task_of(kit, request, folder):
  """A task of the package whose embeddings are there already; it writes to `folder` alone."""
  import torch

  encoder = torch.nn.Module()
  encoder.output_dim = request["size"]
  config = kit.TaskConfig(
    name="compared",
    env_root=folder,
    torch_num_threads=int(THREADS),
    seed=request["seed"],
    encoder=encoder,
    label_processor=lambda note: note["label"],
    k_fold_splits=list(request["parts"]) if request["folds"] else None,
    criterion="CrossEntropyLoss" if request["metric"] == "accuracy" else "BCEWithLogitsLoss",
    metric=request["metric"],
    output_dim=request["classes"],
    epochs=request["epochs"],
    batch_size_train=request["batch_size"],
    learning_rate=request["learning_rate"],
  )
  task = kit.XaresTask(config)
  paths = {part: pathlib.Path(path) for part, path in request["parts"].items()}
  task.encoded_tar_path_of_split = paths
  task.ckpt_dir.mkdir(parents=True)  # k-NN writes its score there, where a head has been trained
  return task


if __name__ == "__main__":
  answer(handle)
