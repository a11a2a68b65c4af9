"""k-NN accuracy of a run's encoder before and after training, beside features that need none.

Results are kept in `knn.json` of the run's folder, so that a resumed run still knows where it came
from.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dasheng_jax.config import DashengConfig
from dasheng_jax.inference import embed
from experiments.evaluation.embed import embed_set
from experiments.evaluation.knn import knn_accuracy
from experiments.evaluation.report import markdown_table
from experiments.evaluation.rivals import RIVALS, log_mel_statistics
from pipelines.tasks import LabelledSet, open_task

FILE = "knn.json"
INITIAL = "initial encoder"
# Random weights behind the final input statistics: at its very start the normalisation passes raw
# decibels through, and an encoder must not look good merely because that was put right.
CALIBRATED = "initial weights, trained statistics"
TRAINED = "trained encoder"


@dataclasses.dataclass(frozen=True)
class BeforeAfter:
  """The tasks of a run, their clips decoded once, and what is known so far."""

  tasks: tuple[LabelledSet, ...]
  pooling: str
  k: int
  rivals: bool
  path: Path

  @classmethod
  def open(
    cls, specs: tuple[str, ...], pooling: str, k: int, rivals: bool, workdir: Path
  ) -> BeforeAfter:
    """Opens every task at once, so that a wrong folder shows before the training."""
    tasks = tuple(open_task(spec).in_memory() for spec in specs)
    return cls(tasks, pooling, k, rivals, workdir / FILE)

  def results(self) -> dict[str, dict[str, Any]]:
    """{features: {task: result}} so far; figures of other settings do not count."""
    if not self.path.exists():
      return {}
    found = json.loads(self.path.read_text())
    return found["results"] if found.get("settings") == self._settings() else {}

  def _settings(self) -> dict[str, Any]:
    clips = {t.name: len(t) for t in self.tasks}
    return {"pooling": self.pooling, "k": self.k, "clips": clips}

  def encoder(self, name: str, cfg: DashengConfig, variables: Mapping[str, Any]) -> None:
    """Evaluates an encoder's {"params", "batch_stats"} on every task."""
    features = functools.partial(
      embed_set, functools.partial(embed, cfg), variables, pooling=self.pooling
    )
    self._evaluate(name, features)

  def evaluate_rivals(self) -> None:
    """Evaluates the features that need no training, unless that was done."""
    for name, mel in RIVALS.items() if self.rivals else ():
      if name not in self.results():
        self._evaluate(name, functools.partial(log_mel_statistics, cfg=mel))

  def _evaluate(self, name: str, features: Callable[[LabelledSet], np.ndarray]) -> None:
    found = {}
    for task in self.tasks:
      result = knn_accuracy(features(task), task.labels, task.groups, self.k)
      found[task.name] = result.as_dict()
    self.path.parent.mkdir(parents=True, exist_ok=True)
    part = self.path.with_name(FILE + ".part")
    content = {"settings": self._settings(), "results": {**self.results(), name: found}}
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(self.path)

  def line(self, name: str) -> str:
    """One line: accuracy of one kind of features on every task."""
    found = self.results()[name]
    return f"{name}: " + ", ".join(f"{t} {100 * _figure(r):.1f} %" for t, r in found.items())

  def table(self) -> str:
    """Markdown: a row for each kind of features, a column for each task."""
    results = self.results()
    order = [n for n in (INITIAL, CALIBRATED, TRAINED, *RIVALS) if n in results]
    rows = [
      [name, *(f"{100 * _figure(results[name][t.name]):.1f} %" for t in self.tasks)]
      for name in order
    ]
    header = ["features", *(f"{t.name} ({len(set(t.groups))} groups)" for t in self.tasks)]
    return markdown_table(header, rows)


def _figure(result: Mapping[str, Any]) -> float:
  return result[result.get("measure", "accuracy")]
