r"""Trains small taggers from a teacher's stored logits and labels.

    python -m experiments.distill --config audioset_kd_mn10 --data.source audioset=FOLDER \
      --teacher passt_enemble_logits_mAP_495.npy --teacher_ids fname_to_index.pkl \
      --workdir runs/mn10

`experiments.write_logits` stores the logits of any of our models. `--names ablation` lists the
configurations whose name begins so, one in a line. What a run leaves is what `finetune` leaves.
"""

from __future__ import annotations

import functools
import sys

from experiments.configs import distill, scenes
from experiments.configs.supervised import SupervisedConfig
from experiments.supervised.run import run
from experiments.training import cli
from experiments.training.errors import UsageError

EXPERIMENTS = {**distill.EXPERIMENTS, **scenes.DISTILL}


def main(cfg: SupervisedConfig) -> int:
  """Runs one configuration; the exit code."""
  if not cfg.teacher and cfg.distil.label_weight and not cfg.dry_run:
    raise UsageError(
      "--teacher: name a folder of stored logits (experiments.write_logits), or the authors' .npy "
      "or .pt with --teacher_ids; --distil.label_weight 0 trains on labels alone"
    )
  return run(cfg, "distill")


def list_names(argv: list[str]) -> int:
  """Prints the names of configurations that begin with the text behind `--names`."""
  start = argv[1] if len(argv) > 1 else ""
  names = [name for name in EXPERIMENTS if name.startswith(start)]
  if not names:
    raise UsageError(f"--names {start}: no configuration begins so; see --help")
  print("\n".join(names))
  return 0


if __name__ == "__main__":
  if sys.argv[1:2] == ["--names"]:
    sys.exit(cli.guard(functools.partial(list_names, sys.argv[1:]), prog="distill"))
  cli.run_main(
    main,
    EXPERIMENTS,
    prog="distill",
    description="Trains small taggers from a teacher's stored logits; resumes by itself.",
  )
