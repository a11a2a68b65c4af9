"""One task from embeddings to test scores: grid search, the folds, and what is kept on the way.

Source: `heareval` 2021.1.3. All candidates train on the first split; the one with the best
validation score, the first of equal ones, trains again on every other split, and each split's
network is tested at its best look. A task's score is the mean over splits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.hear.embeddings import Part, join
from experiments.evaluation.hear.folder import Split, TaskFolder
from experiments.evaluation.hear.grid import Grid, Point
from experiments.evaluation.hear.looks import found_events, look_of
from experiments.evaluation.hear.predictor import Best, Data, fit, predict
from experiments.evaluation.hear.program_scores import probabilities
from experiments.evaluation.hear.scores import LOWER_IS_BETTER, clip_score, event_scores
from experiments.training.entry import say
from experiments.training.errors import UsageError
from experiments.training.metrics import write_json

SEARCH, RESULT = "grid.json", "result.json"


@dataclasses.dataclass(frozen=True)
class Search:
  """How candidates are drawn and trained."""

  grid: Grid = dataclasses.field(default_factory=Grid)
  points: int = 8
  seed: int = 0
  side_by_side: int = 0
  first_split: bool = False  # only that, on which the grid is searched


def run_task(
  folder: TaskFolder, parts: Mapping[str, Part], search: Search, out: Path
) -> dict[str, Any]:
  """The result of a task, JSON-ready; `out` has a file for the search and one for each split.

  Returns:
    {"task", "mode", "scores": {name: mean over splits}, "splits": {test part: its record},
    "search": the candidates and what was chosen}. NaN is a score where a part cannot be judged.

  Raises:
    UsageError: `out` holds results of other settings.
  """
  out.mkdir(parents=True, exist_ok=True)
  grid = folder.grid(search.grid)
  points = grid.drawn(search.points)
  settings = _settings(folder, parts, grid, search)
  splits = folder.splits[:1] if search.first_split else folder.splits
  looks = {split: look_of(folder, parts[split.valid]) for split in splits}

  def trained(split: Split, number: int, chosen: list[int]) -> list[Best]:
    keys = [jax.random.fold_in(jax.random.key(search.seed), 1000 * number + i) for i in chosen]
    candidates = [points[i] for i in chosen]
    data = _data(parts, split)
    return fit(candidates, grid, data, looks[split], folder.tags, keys, search.side_by_side)

  found = _read(out / SEARCH, settings)
  if found is None:
    began = time.monotonic()
    candidates = trained(splits[0], 0, list(range(len(points))))
    jax.block_until_ready(candidates)
    found = _searched(points, candidates, folder, time.monotonic() - began)
    write_json(out / SEARCH, {"settings": settings, **found})
    tested = _test(folder, parts[splits[0].test], candidates[found["chosen"]], grid)
    write_json(out / f"{splits[0].test}.json", {"settings": settings, **tested})
  records: dict[str, Any] = {}
  for number, split in enumerate(splits):
    kept = _read(out / f"{split.test}.json", settings)
    if kept is None:
      (best,) = trained(split, number, [found["chosen"]])
      kept = _test(folder, parts[split.test], best, grid)
      write_json(out / f"{split.test}.json", {"settings": settings, **kept})
    scores = {name: float(value) for name, value in kept["scores"].items()}  # JSON has NaN as text
    records[split.test] = {**_without_settings(kept), "scores": scores}
    say(f"{folder.path.name}: {split.test}, {_line(scores)}")
  names = list(next(iter(records.values()))["scores"])
  mean = {name: _mean([r["scores"][name] for r in records.values()]) for name in names}
  result = {"task": folder.name, "mode": folder.mode, "scores": mean, "splits": records}
  result["search"] = _without_settings(found)
  write_json(out / RESULT, result)
  return result


def _mean(values: Sequence[float]) -> float:
  """Over the splits that have a figure, as in the public package: no event found has none."""
  told = [value for value in values if not math.isnan(value)]
  return float(np.mean(told)) if told else math.nan


def _searched(
  points: Sequence[Point], candidates: Sequence[Best], folder: TaskFolder, seconds: float
) -> dict[str, Any]:
  """The record of a search. Ties go to the candidate that was drawn first."""
  scores = [float(best.score) for best in candidates]
  order = [-math.inf if math.isnan(score) else score for score in scores]
  tried = [
    {**point._asdict(), **_looked(folder, best)}
    for point, best in zip(points, candidates, strict=True)
  ]
  chosen = max(range(len(points)), key=order.__getitem__)
  return {"chosen": chosen, "point": points[chosen]._asdict(), "tried": tried, "seconds": seconds}


def _looked(folder: TaskFolder, best: Best) -> dict[str, Any]:
  """The validation score as it is named, though inside the program more is always better."""
  turned = folder.by_loss or folder.scores[0] in LOWER_IS_BETTER
  score = -float(best.score) if turned else float(best.score)
  return {"validation": score, "best_look": int(best.look), "looks": int(best.looks)}


def _without_settings(record: Mapping[str, Any]) -> dict[str, Any]:
  return {name: value for name, value in record.items() if name != "settings"}


def _test(folder: TaskFolder, part: Part, best: Best, grid: Grid) -> dict[str, Any]:
  logits = predict(best, part.x, grid.batch_size)
  told = np.asarray(probabilities(logits, folder.tags))
  record = _looked(folder, best)
  if folder.events:
    settings = folder.postprocessing[int(best.choice)]
    record["postprocessing"] = dict(
      zip(("median_filter_ms", "min_duration"), settings, strict=True)
    )
    events, truth = found_events(folder, part, told, settings), folder.truth_of(part.files)
    figures = {}
    for name in folder.scores:
      parts = event_scores(name, events, truth, folder.labels)
      figures[name] = next(iter(parts.values()))
      figures |= {f"{name}_{figure}": x for figure, x in parts.items() if len(parts) > 1}
  else:
    figures = {name: clip_score(name, told, part.y) for name in folder.scores}
  return {**record, "scores": figures}


def _data(parts: Mapping[str, Part], split: Split) -> Data:
  teaches = join([parts[name] for name in split.train])
  valid = parts[split.valid]
  return Data(*(jnp.asarray(x) for x in (teaches.x, teaches.y, valid.x, valid.y)))


def _settings(
  folder: TaskFolder, parts: Mapping[str, Part], grid: Grid, search: Search
) -> dict[str, Any]:
  """All that decides a result, but for what the hardware rounds."""
  digest = hashlib.sha256()
  for name in folder.parts:
    for array in (parts[name].x, parts[name].y):
      digest.update(np.ascontiguousarray(array).data)
  told = {
    "truth": hashlib.sha256(
      repr([folder.truth(name) for name in folder.parts]).encode()
    ).hexdigest(),
    "postprocessing": folder.postprocessing,
    "by_loss": folder.by_loss,
    "grid": dataclasses.asdict(grid),
    "points": search.points,
    "seed": search.seed,
    "scores": folder.scores,
    "embeddings": digest.hexdigest(),
  }
  return json.loads(json.dumps(told))


def _read(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
  """What a file holds; None where there is none. UsageError where it is of other settings."""
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    return None
  except ValueError:
    raise UsageError(f"{path}: damaged; remove it, and it is made again") from None
  if found["settings"] != settings:
    changed = [name for name in settings if found["settings"].get(name) != settings[name]]
    raise UsageError(
      f"{path}: of other settings ({', '.join(changed)}); name another --hear.out, or remove it"
    )
  return found


def _line(scores: Mapping[str, float]) -> str:
  return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
