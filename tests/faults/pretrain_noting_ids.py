"""`experiments.pretrain`, which notes the ids of its batches in WORKDIR/ids.PROCESS.PID.jsonl."""

import json
import os
import pathlib
import sys

from experiments import pretrain
from experiments.configs.pretrain import EXPERIMENTS
from experiments.training import cli


class Noting:
  """An iterator of batches that writes down their ids."""

  def __init__(self, inner, step, path):
    self.inner, self.step, self.path = inner, step, path

  def __getattr__(self, name):
    return getattr(self.inner, name)

  def __enter__(self):
    self.inner.__enter__()
    return self

  def __exit__(self, *exception):
    return self.inner.__exit__(*exception)

  def __next__(self):
    batch = next(self.inner)
    with self.path.open("a") as file:
      file.write(json.dumps([self.step, [str(i) for i in batch["id"]]]) + "\n")
    self.step += 1
    return batch


def main():
  folder = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
  batches = pretrain.batches
  path = folder / f"ids.{os.environ.get('JAX_PROCESS_ID', '0')}.{os.getpid()}.jsonl"
  pretrain.batches = lambda *a, **how: Noting(batches(*a, **how), how["start_step"], path)
  cli.run_main(pretrain.main, EXPERIMENTS, prog="pretrain")


if __name__ == "__main__":
  main()
