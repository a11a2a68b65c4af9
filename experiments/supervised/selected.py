"""The trained network of a run that keeps its best states: their mean, beside the best alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.evaluation.report import markdown_table
from experiments.training.entry import say
from experiments.training.errors import RunError
from experiments.training.metrics import write_json
from experiments.training.paths import map_by_path
from experiments.training.selection import Arrays, Check, SelectConfig, mean_state, read_state

RECORD, TABLE = "selection.json", "selection.md"
Figures = Mapping[str, float]


class Averaged(NamedTuple):
  """The mean of the best states, and the best alone, as trees of the run's own structure.

  checks: of the states that were averaged, best first.
  """

  mean: Any
  best: Any
  checks: tuple[Check, ...]


def averaged(folder: Path, best: Sequence[Check], tree: Any) -> Averaged:
  """The mean of the states of these checks.

  A state that cannot be read is named and left out.

  Args:
    folder: of the best states.
    best: their checks, best first.
    tree: {"params", "model_state"} of the structure that is wanted.

  Raises:
    RunError: none of the states can be read.
  """
  found: dict[Check, Arrays] = {}
  for check in best:
    try:
      found[check] = read_state(folder, check.step)
    except RunError as error:
      say(f"{error}; left out of the mean")
  if not found:
    raise RunError(
      f"{folder}: holds none of the {len(best)} best states; --select.average 0 in another "
      "--workdir trains on without them, and the newest checkpoint of this one is its last state"
    )
  states = list(found.values())

  def like(arrays: Arrays) -> Any:
    return map_by_path(lambda path, _: arrays[path], tree)

  return Averaged(like(mean_state(states)), like(states[0]), tuple(found))


def report_selection(
  cfg: SelectConfig,
  chosen: Averaged,
  step: int,
  scores: Mapping[str, Mapping[str, Figures]],
  workdir: Path,
) -> tuple[dict[str, Any], str]:
  """Writes selection.json and selection.md: what was averaged, and how mean and best do.

  Args:
    cfg: what was selected.
    chosen: the two networks.
    step: at which the run ended.
    scores: part of the set -> figures of the "mean" and of the "best".
    workdir: of the run; its report.json gets the steps and, as best_NAME, the figures of the best
      state on the test part.

  Returns:
    Figures for the summary, and the table.
  """
  steps = [check.step for check in chosen.checks]
  record = {
    "metric": cfg.metric,
    "ended_at": step,
    "averaged": [check._asdict() for check in chosen.checks],
    "scores": scores,
  }
  write_json(workdir / RECORD, record)
  table = _table(steps, scores)
  (workdir / TABLE).write_text(table + "\n", encoding="utf-8")
  best = scores.get("test", {}).get("best", {})
  summary = {"averaged_steps": steps} | {f"best_{name}": x for name, x in best.items()}
  _add(workdir / "report.json", summary)
  return summary | {"averaged_steps": ", ".join(map(str, steps))}, table


def _table(steps: Sequence[int], scores: Mapping[str, Mapping[str, Figures]]) -> str:
  told = {"mean": f"mean of steps {', '.join(map(str, steps))}", "best": f"step {steps[0]}"}
  names = next(iter(next(iter(scores.values())).values())) if scores else {}
  rows = [
    [part, told[which], *(f"{figures[name]:.4f}" for name in names)]
    for part, both in scores.items()
    for which, figures in both.items()
  ]
  return markdown_table(["part", "network", *names], rows)


def _add(path: Path, more: Mapping[str, Any]) -> None:
  if path.is_file():
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | dict(more))
