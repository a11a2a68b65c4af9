r"""Trains a grid of sizes and amounts of audio, and fits the law by which the loss falls with both.

    python -m experiments.scaling --config hour --out runs/scaling \
      --source DATA/spoken_digits DATA/esc10 DATA/recordings --weights 36 3 1

Every run is one of `experiments.pretrain`, in a folder of its own. What is finished is not run
again, what was stopped goes on. `--launch cluster` prints the commands in place of running them;
the same study with `--collect` then evaluates what is finished. The folder ends with a table of
runs and laws, their figures and a picture: scaling.md, scaling.csv, scaling.json, scaling.png. What
stands behind `--` is added to every run, such as `-- --mesh.fsdp 16`.
"""

from __future__ import annotations

from pathlib import Path

from experiments.configs.scaling import STUDIES, ScalingConfig
from experiments.scaling_study import report
from experiments.scaling_study.grid import Trial, trials
from experiments.scaling_study.held_out import Judge, Point, check_audio, finished
from experiments.scaling_study.launch import launch_lines
from experiments.scaling_study.laws import fit_laws
from experiments.scaling_study.picture import draw
from experiments.studies.loop import run_cells
from experiments.training import cli
from experiments.training.entry import say
from experiments.training.errors import UsageError
from pipelines.tasks import open_task


def main(cfg: ScalingConfig) -> None:
  """Runs or collects a study and prints its table and laws, or prints its commands."""
  grid = trials(cfg)
  if cfg.launch == "cluster" and not cfg.collect:
    print(launch_lines(cfg, grid))
    return
  tasks = [open_task(spec).in_memory() for spec in cfg.tasks]
  for task in tasks:
    if task.tagged:
      raise UsageError(f"--tasks {task.name}: has tags; name sets of one class for each clip")
  out = Path(cfg.out)
  if cfg.collect:
    grid = _ended(grid, out)
  else:
    for trial in grid:  # before the first of them runs
      check_audio(trial)
    run_cells([trial.cell for trial in grid], out)
  points = _judged(grid, Judge(tasks, cfg.k))
  laws = fit_laws(points, cfg)
  text = report.write(points, laws, out)
  draw(points, laws, cfg, out / "scaling.png")
  print(text)


def _ended(grid: tuple[Trial, ...], out: Path) -> tuple[Trial, ...]:
  """The runs that are finished; the others are named."""
  done = tuple(trial for trial in grid if finished(trial))
  missing = [trial.cell.name for trial in grid if trial not in done]
  if not done:
    raise UsageError(f"--out {out}: none of the {len(grid)} runs is finished there")
  if missing:
    say(f"scaling: {len(missing)} of {len(grid)} runs are not finished: {', '.join(missing)}")
  return done


def _judged(grid: tuple[Trial, ...], judge: Judge) -> list[Point]:
  points = []
  for trial in grid:
    points.append(judge(trial))
    say(f"scaling: {trial.cell.name}: held-out loss {points[-1].loss:.4f}")
  return points


if __name__ == "__main__":
  cli.run_main(
    main,
    STUDIES,
    prog="scaling",
    description="Trains a grid of sizes and amounts of audio and fits their law; resumes.",
  )
