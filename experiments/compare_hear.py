r"""HEAR's predictor here and in the public package `heareval`, on the same embeddings.

    python -m experiments.compare_hear --task FOLDER --first_split \
      --embeddings HEAR_OUT/MODEL/TASK/embeddings --torch_python TORCH_VENV/bin/python \
      --out hear.json

The embeddings are those that `evaluate --suite hear` keeps. Seed after seed, first the package and
then this library search the grid, whose points and their order are the same, and test. The package
runs in a process of its own on the CPU; with --torch_python, under another Python. Results are
written after every turn, and the same command goes on with the turns that are missing. What to
install: docs/hear.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import packages
from experiments.benchmarks.contender import Contender
from experiments.benchmarks.serve import timed
from experiments.evaluation.hear.embeddings import Part, kept_parts
from experiments.evaluation.hear.folder import TaskFolder, open_folder
from experiments.evaluation.hear.package_files import write_package_files
from experiments.evaluation.hear.run import candidates_together
from experiments.evaluation.hear.scores import load_sed_eval
from experiments.evaluation.hear.task import Search, run_task
from experiments.evaluation.left_out import spread_of
from experiments.evaluation.report import markdown_table
from experiments.training import cli
from experiments.training.entry import say
from experiments.training.errors import UsageError
from experiments.training.metrics import write_json
from pipelines.progress import Progress

THERE, HERE = packages.HEAR.name, "here"
HEADER = ("seed", "who", "score", "test", "best validation", "chosen", "processor, s", "clock, s")


@dataclasses.dataclass(frozen=True)
class CompareConfig:
  """What to compare on, and where the results go."""

  task: str = ""  # folder of one task, as the benchmark prepares it
  embeddings: str = ""  # folder of its PART.npz: HEAR_OUT/MODEL/TASK/embeddings of the suite
  seeds: tuple[int, ...] = (0, 1, 2)  # of initial values and dropout, on both sides
  grid_points: int = 8  # of the sixteen
  first_split: bool = False  # test on the first split alone, in place of all
  side_by_side: int = -1  # candidates here that train together; as of the suite
  package: tuple[str, ...] = ()  # folders that hold the package, or what it needs
  torch_python: str = ""  # Python that has PyTorch and the package, if not this one
  threads: int = 0  # of the package; 0: as many as cores, which is what this library takes
  out: str = ""  # .json: every turn with all candidates


def main(cfg: CompareConfig) -> None:
  """Takes the turns that are missing, and prints the table."""
  _check(cfg)
  folder = open_folder(cfg.task)
  if folder.events:
    load_sed_eval()
  parts = kept_parts(folder, Path(cfg.embeddings).expanduser())
  turns, settings = [], _settings(cfg, parts)
  if cfg.out:
    turns = _finished(Path(cfg.out), settings)
  done = {(turn["who"], turn["seed"]) for turn in turns}
  missing = [(s, who) for s in cfg.seeds for who in (THERE, HERE) if (who, s) not in done]
  if missing:
    threads = cfg.threads or packages.usable_cores()
    about = packages.about(threads)
    with packages.worker_of(packages.HEAR, cfg.torch_python, cfg.package, threads) as worker:
      about["package"] = packages.check(worker, packages.HEAR, cfg.torch_python)
      for turn in _taken(cfg, folder, parts, missing, worker):
        turns.append(turn)
        if cfg.out:
          write_json(Path(cfg.out), {"settings": settings, "about": about, "turns": turns})
  wanted = [turn for seed in cfg.seeds for turn in turns if turn["seed"] == seed]
  print(table(wanted, folder.scores[0]))


def _check(cfg: CompareConfig) -> None:
  for name in ("task", "embeddings"):
    if not getattr(cfg, name):
      raise UsageError(f"--{name} is missing: --task FOLDER --embeddings FOLDER")
  if not cfg.seeds or min(cfg.seeds) < 0 or len(set(cfg.seeds)) < len(cfg.seeds):
    raise UsageError(f"--seeds {' '.join(map(str, cfg.seeds))}: different ones, 0 or more")
  if cfg.side_by_side < -1 or cfg.threads < 0:
    raise UsageError("--side_by_side: -1, 0 or a number of candidates; --threads: 0 or more")
  if cfg.out:
    packages.check_output(cfg.out)
  most = len(Search().grid.points)
  if not 1 <= cfg.grid_points <= most:
    raise UsageError(f"--grid_points {cfg.grid_points}: the grid has {most}; try 1 or more")


def _settings(cfg: CompareConfig, parts: Mapping[str, Part]) -> dict[str, Any]:
  """What decides the result of a turn, and the time that it takes on one machine."""
  digest = hashlib.sha256()
  for name in sorted(parts):
    for array in (parts[name].x, parts[name].y, parts[name].owner, parts[name].times):
      digest.update(np.ascontiguousarray(array).data)
  return {
    "task": Path(cfg.task).name,
    "clips": {name: len(part.files) for name, part in parts.items()},
    "size": int(next(iter(parts.values())).x.shape[1]),
    "embeddings": digest.hexdigest(),
    "grid_points": cfg.grid_points,
    "first_split": cfg.first_split,
    "threads": cfg.threads,
    "side_by_side": cfg.side_by_side,
  }


def _finished(path: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The turns of an earlier command with the same settings."""
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
    same, turns = found["settings"] == settings, list(found["turns"])
  except FileNotFoundError:
    return []
  except (ValueError, KeyError, TypeError):
    raise UsageError(f"--out {path}: is no file of this command; name another one") from None
  if not same:
    raise UsageError(f"--out {path}: holds turns with other settings; name another file")
  return turns


def _taken(
  cfg: CompareConfig,
  folder: TaskFolder,
  parts: Mapping[str, Part],
  missing: Sequence[tuple[int, str]],
  worker: Contender,
) -> Iterator[dict[str, Any]]:
  """The record of one turn after the other."""
  splits = 1 if cfg.first_split else len(folder.splits)
  each = cfg.grid_points + splits - 1
  together = candidates_together(cfg.side_by_side)
  with (
    tempfile.TemporaryDirectory(prefix="heareval-") as files,
    Progress("compare_hear", each * len(missing), "candidates") as bar,
  ):
    write_package_files(folder, parts, Path(files))
    request = {"folder": files, "size": next(iter(parts.values())).x.shape[1]}
    request |= {"points": cfg.grid_points, "first_split": cfg.first_split}
    for seed, who in missing:
      if who == THERE:
        told = packages.ask(worker, packages.HEAR, {**request, "seed": seed}, lambda _: bar.add())
      else:
        search = Search(
          points=cfg.grid_points,
          seed=seed,
          side_by_side=together,
          first_split=cfg.first_split,
        )
        told = here(folder, parts, search)
        bar.add(each)
      turn = {"who": who, "seed": seed, **told}
      test, validation, chosen, used, clock = _cells(turn, folder.scores[0])
      say(
        f"compare_hear: seed {seed}, {who}: test {test}, best validation {validation}, {chosen}; "
        f"{used} s of processors, {clock} s"
      )
      yield turn


def here(folder: TaskFolder, parts: Mapping[str, Part], search: Search) -> dict[str, Any]:
  """A turn of this library, in the form in which the package's worker answers."""
  with tempfile.TemporaryDirectory() as out:
    result, times = timed(lambda: run_task(folder, parts, search, Path(out)))
  names = ("validation", "scores")
  splits = {name: {key: record[key] for key in names} for name, record in result["splits"].items()}
  found = result["search"]
  return {**times, "point": found["point"], "splits": splits, "tried": found["tried"]}


def table(turns: Sequence[Mapping[str, Any]], score: str) -> str:
  """Markdown: a row for each turn, means over the seeds, and the package's time over ours.

  Test and validation are means over the splits that were tested. Means and ratios are of the seeds
  that both sides have.
  """
  rows = [[str(turn["seed"]), turn["who"], score, *_cells(turn, score)] for turn in turns]
  seeds = {who: {turn["seed"] for turn in turns if turn["who"] == who} for who in (THERE, HERE)}
  both = seeds[THERE] & seeds[HERE]
  means = {}
  for who in (THERE, HERE) if both else ():
    figures = np.array(
      [_figures(turn, score) for turn in turns if turn["who"] == who and turn["seed"] in both]
    )
    means[who] = figures.mean(axis=0)
    test, validation, used, clock = means[who]
    spread = spread_of(figures[:, 0].tolist())
    apart = f"{test:.4f}" + ("" if spread is None else f" ± {spread:.4f}")
    rows.append(["mean", who, score, apart, f"{validation:.4f}", "", f"{used:.1f}", f"{clock:.1f}"])
  text = markdown_table(HEADER, rows)
  if both:
    used, clock = (means[THERE] / means[HERE])[2:]
    text += (
      f"\n\n{THERE} takes {used:.2f} times the processor time and {clock:.2f} times the time on "
      f"the clock ({len(both)} seed(s); the first turn here compiles)."
    )
  return text


def _figures(turn: Mapping[str, Any], score: str) -> list[float]:
  """[test score, validation score, processor seconds, seconds]."""
  splits = turn["splits"].values()
  tests = [float(split["scores"].get(score, math.nan)) for split in splits]
  tests = [test for test in tests if not math.isnan(test)]  # no event found, as in the package
  validation = float(np.mean([float(split["validation"]) for split in splits]))
  test = float(np.mean(tests)) if tests else math.nan
  return [test, validation, turn["processor_seconds"], turn["seconds"]]


def _cells(turn: Mapping[str, Any], score: str) -> list[str]:
  test, validation, used, clock = _figures(turn, score)
  point = turn["point"]
  chosen = f"{point['hidden_layers']} x {point['initial']}, {point['learning_rate']:g}"
  return [f"{test:.4f}", f"{validation:.4f}", chosen, f"{used:.1f}", f"{clock:.1f}"]


if __name__ == "__main__":
  cli.run_main(
    main,
    {"default": CompareConfig()},
    prog="compare_hear",
    default="default",
    description=(__doc__ or "").split("\n")[0],
  )
