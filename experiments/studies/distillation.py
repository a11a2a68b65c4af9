"""What a teacher's logits are worth to a student ten times smaller, on voices neither has met."""

from __future__ import annotations

from pathlib import Path

from experiments.studies.cell import Cell, scores_of_run
from experiments.studies.config import StudyConfig
from experiments.studies.study import Study
from experiments.studies.table import Gain
from experiments.studies.weights import network_of
from experiments.teaching.store import RECORD

TEACHER, LABELS, DISTILLED = "teacher", "labels alone", "labels and teacher"


def distillation(cfg: StudyConfig) -> Study:
  """A fine-tuned teacher; students of width 0.1 with and without its logits, for every seed.

  The teacher hears the students' training part alone, so the part that is left out (a speaker, a
  fold) is new to both.
  """
  out = Path(cfg.out)
  source = ("--data.source", cfg.data)
  held = ("--data.cache", "memory", *(("--fold", cfg.fold) if cfg.fold else ()))
  programs = ("--compile_cache", str(out / "programs"))

  _, kind = network_of(cfg.init)

  def training(
    name: str,
    row: str,
    prog: str,
    seed: int,
    *flags: str,
    recipe: str = "words",
    needs: tuple[str, ...] = (),
  ) -> Cell:
    folder = out / name
    seeded = ("--loop.seed", str(seed), "--workdir", str(folder))
    return Cell(
      name,
      prog,
      ("--config", recipe, *flags, *source, *held, *programs, *seeded, *cfg.more),
      folder / "report.json",
      row,
      scores_of_run(seed),
      needs,
    )

  teacher = training("teacher", TEACHER, "finetune", 0, "--init", cfg.init, recipe=f"words{kind}")
  weights = out / "teacher" / "export" / "model.safetensors"
  logits = out / "logits"
  fold = ("--fold", cfg.fold) if cfg.fold else ()
  heard = Cell(
    "logits",
    "write_logits",
    (str(weights), *source, *fold, "--data.crop_seconds", "1", "--out", str(logits)),
    logits / RECORD,
    needs=(teacher.name,),
  )
  students = [
    cell
    for seed in cfg.seeds
    for cell in (
      training(f"labels_{seed}", LABELS, "distill", seed, "--distil.label_weight", "0"),
      training(
        f"distilled_{seed}",
        DISTILLED,
        "distill",
        seed,
        *("--teacher", str(logits)),
        needs=(teacher.name, heard.name),
      ),
    )
  ]
  return Study(
    cells=(teacher, heard, *students),
    columns=("accuracy", "log_loss"),
    title="accuracy on the part that was left out, every seed a point",
    gains=(Gain("gain by the teacher", DISTILLED, LABELS),),
  )
