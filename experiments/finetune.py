r"""Trains and fine-tunes on a labelled set, by a released recipe or on your own audio.

    python -m experiments.finetune --config esc50 --init mn10_as_mAP_471.pt \
      --data.source esc50=FOLDER --fold 1 --workdir runs/esc50_1

A run that is found in the folder goes on from its newest checkpoint. At the end the folder holds
the network in the released layout (export/), the scores on the part that was left out (report.json,
report.md, classes.csv), a loss curve and, where clips have one class, a confusion picture.
"""

from __future__ import annotations

from experiments.configs import finetune, scenes, taggers
from experiments.supervised.run import run
from experiments.training import cli

EXPERIMENTS = {**finetune.EXPERIMENTS, **scenes.FINETUNE, **taggers.FINETUNE}

if __name__ == "__main__":
  cli.run_main(
    run,
    EXPERIMENTS,
    prog="finetune",
    description="Trains and fine-tunes on a labelled set; resumes by itself.",
  )
