"""Encoders side by side on labelled sets: a set is embedded once, and every probe looks at that."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from experiments.embedding.embedder import Embedder, Embedding
from experiments.evaluation.cache import Cache
from experiments.evaluation.feature_sets import cut
from experiments.evaluation.knn import knn_accuracy
from experiments.evaluation.left_out import LeftOut
from experiments.evaluation.linear import linear_accuracy
from experiments.evaluation.probes.knn import Metric
from experiments.evaluation.report import markdown_table
from experiments.evaluation.scenes import embed_clips
from experiments.evaluation.trained import (
  AttentionConfig,
  MlpConfig,
  attention_accuracy,
  mlp_accuracy,
)
from experiments.training.progress import duration
from pipelines.tasks import LabelledSet

Suite = Literal["knn", "linear", "mlp", "attention"]
SUITES: tuple[Suite, ...] = get_args(Suite)
TITLES = {"knn": "k-NN", "linear": "linear", "mlp": "MLP", "attention": "attention"}


@dataclasses.dataclass(frozen=True)
class Probes:
  """Settings of the probes; `EvaluateConfig` has their meaning."""

  k: int = 10
  metric: Metric = "cosine"
  c: float = 1.0
  seeds: int = 1
  mlp: MlpConfig = MlpConfig()  # noqa: RUF009 - frozen
  attention: AttentionConfig = AttentionConfig()  # noqa: RUF009 - frozen

  def result(self, suite: Suite, made: Sequence[Embedding], task: LabelledSet) -> LeftOut:
    """One probe's figures from the embeddings of a task's clips; attention needs timestamps."""
    told = (task.labels, task.groups)
    if suite == "attention":
      frames = [one.timestamps for one in made if one.timestamps is not None]
      return attention_accuracy(frames, *told, self.attention, self.seeds)
    scenes = np.stack([one.scene for one in made])
    if suite == "knn":
      return knn_accuracy(scenes, *told, self.k, self.metric)
    if suite == "linear":
      return linear_accuracy(scenes, *told, self.c)
    return mlp_accuracy(scenes, *told, self.mlp, self.seeds)


@dataclasses.dataclass(frozen=True)
class Row:
  """One encoder on one task: what the probes made of it. size: of a scene vector."""

  features: str
  task: str
  size: int
  results: Mapping[Suite, LeftOut]

  def records(self) -> list[dict[str, Any]]:
    """One result each for JSON or CSV."""
    head = {"features": self.features, "size": self.size, "task": self.task}
    return [{**head, "suite": s, **found.as_dict()} for s, found in self.results.items()]


def compare(
  encoders: Mapping[str, Embedder],
  tasks: Sequence[LabelledSet],
  suites: Sequence[Suite],
  probes: Probes,
  cache: Path | None = None,
  say: Callable[[str], None] = print,
  apart: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> list[Row]:
  """Every encoder on every task by every suite, in that order.

  Embedders must give timestamps where `suites` has attention. cache: folder of embeddings. `say`
  gets a line for each embedded set and each result. apart: of an encoder, the columns of feature
  sets that are rows of their own.
  """
  whole: Mapping[str, np.ndarray | None] = {"": None}
  sets = {name: (apart or {}).get(name) or whole for name in encoders}
  rows, done, total = [], 0, sum(map(len, sets.values())) * len(tasks) * len(suites)
  began = time.monotonic()
  for task in tasks:
    # The clips are decoded once for each sample rate, however many encoders there are.
    held = task.in_memory() if len(encoders) > 1 else task
    for name, embedder in encoders.items():
      kept = Cache(cache, embedder.settings) if cache else None
      start = time.monotonic()
      made = embed_clips(embedder, held, kept)
      say(f"{task.name}, {name}: {_embedded(len(task), kept, time.monotonic() - start)}")
      for label, columns in sets[name].items():
        seen = made if columns is None else [cut(one, columns) for one in made]
        row = f"{name} {label}".rstrip()
        results: dict[Suite, LeftOut] = {}
        for suite in suites:
          start = time.monotonic()
          results[suite] = probes.result(suite, seen, task)
          now, done = time.monotonic(), done + 1
          left = duration((now - began) / done * (total - done))
          figure = f"{TITLES[suite]} {results[suite].figure()}"
          say(f"{done}/{total}  {task.name}, {row}: {figure}  {now - start:.1f} s  ETA {left}")
        rows.append(Row(row, task.name, len(seen[0].scene), results))
  return rows


def table(rows: Sequence[Row], suites: Sequence[Suite]) -> str:
  """Markdown: a row for each encoder and task, a column for each suite.

  A cell holds the figure and, in brackets, those of the lowest and the highest group.
  """
  header = ["features", "size", "task", *(TITLES[suite] for suite in suites)]
  cells = [
    [row.features, str(row.size), row.task, *(_cell(row.results[suite]) for suite in suites)]
    for row in rows
  ]
  return markdown_table(header, cells)


def _cell(result: LeftOut) -> str:
  low, high = (f"{100 * result.per_group[group]:.1f}" for group in result.ends())
  kind = "" if result.measure == "accuracy" else f" {result.measure}"
  return f"{result.figure()}{kind} ({low} to {high})"


def _embedded(clips: int, cache: Cache | None, seconds: float) -> str:
  if cache is None:
    return f"{clips:,} clips embedded in {seconds:.1f} s"
  made = f", {cache.made:,} embedded" if cache.made else ""
  return f"{cache.found:,} of {clips:,} clips found{made} in {seconds:.1f} s"
