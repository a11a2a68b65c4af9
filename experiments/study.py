r"""Runs a named study: many commands, one table. What is finished is not run again.

    python -m experiments.study --config fine_tuning --init mn04_as_mAP_432.pt \
      --data esc10=FOLDER --out runs/esc10
    python -m experiments.study --config distillation --init mn04_as_mAP_432.pt \
      --data spoken_digits=FOLDER --fold nicolas --out runs/digits
    python -m experiments.study --config device_methods --data tau22=FOLDER --responses FOLDER \
      --init passt_audioset.safetensors --out runs/scenes
    python -m experiments.study --config transfer --init mn04_as_mAP_432.pt \
      --data esc50=FOLDER --sets urbansound8k=FOLDER msos=FOLDER --out runs/transfer

teacher_size, device_methods, three_teachers and teacher_ensembles are tables 1 to 4 of the paper on
teachers of scenes; in one folder they share their cells. transfer is the study of the weakly
supervised taggers: scratch, frozen and fine-tuned on up to fourteen tasks. `--commands` prints what
would be run. What stands behind `--` is added to every training run, such as `-- --loop.epochs 40`.
The folder ends with a table, its figures and a picture: study.md, study.json, study.png, or named
by the study where several share a folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.configs.transfer import TRIALS
from experiments.studies import hear, scenes
from experiments.studies.config import Name, StudyConfig
from experiments.studies.distillation import distillation
from experiments.studies.fine_tuning import fine_tuning
from experiments.studies.study import Study, run_study
from experiments.studies.transfer import transfer
from experiments.training import cli
from experiments.training.errors import UsageError

LAID_OUT: dict[Name, Callable[[StudyConfig], Study]] = {
  "fine_tuning": fine_tuning,
  "distillation": distillation,
  **scenes.LAID_OUT,
  "transfer": transfer,
  "hear_features": hear.hear_features,
  "hear_widths": hear.hear_widths,
}
STUDIES = {
  "fine_tuning": StudyConfig(
    about="published weights fine-tuned, frozen, and the same network from scratch, over all folds"
  ),
  "distillation": StudyConfig(
    about="students of width 0.1 with and without a fine-tuned teacher, over seeds",
    study="distillation",
  ),
  "teacher_size": StudyConfig(
    about="teachers of scenes of growing size, and their students: table 1 of the paper",
    study="teacher_size",
  ),
  "device_methods": StudyConfig(
    about="with and without Freq-MixStyle and impulse responses: table 2",
    study="device_methods",
  ),
  "three_teachers": StudyConfig(
    about="students of equal teachers that differ in their seed: table 3", study="three_teachers"
  ),
  "teacher_ensembles": StudyConfig(
    about="students of ensembles over architectures and methods: table 4",
    study="teacher_ensembles",
  ),
  "transfer": StudyConfig(
    about="scratch, frozen and fine-tuned on the fourteen tasks of the taggers' transfer study",
    study="transfer",
    seeds=tuple(range(TRIALS)),
  ),
  "hear_features": StudyConfig(
    about="what of an MN to take, on the tasks of HEAR: table II of the paper on embeddings",
    study="hear_features",
  ),
  "hear_widths": StudyConfig(
    about="MN of growing width on the tasks of HEAR: the figure of that paper", study="hear_widths"
  ),
}
_NEED_WEIGHTS = ("fine_tuning", "distillation")


def main(cfg: StudyConfig) -> None:
  """Runs what is left of a study and prints its table, or prints its commands."""
  for flag in ("data", "init", "out"):
    if not getattr(cfg, flag) and (flag != "init" or cfg.study in _NEED_WEIGHTS):
      raise UsageError(f"--{flag} is missing: study --data NAME=FOLDER --init WEIGHTS --out FOLDER")
  if len(set(cfg.seeds)) != len(cfg.seeds) or not cfg.seeds:
    raise UsageError("--seeds: name one or more, each once")
  study = LAID_OUT[cfg.study](cfg)
  if cfg.commands:
    print("\n".join(cell.line for cell in study.cells))
    return
  print(run_study(study, Path(cfg.out)))


if __name__ == "__main__":
  cli.run_main(
    main,
    STUDIES,
    prog="study",
    description="Runs a named study: many commands, one table; goes on where it stopped.",
  )
