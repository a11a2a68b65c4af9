"""The picture of a comparison: a panel for each task, a group of bars for each probe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.evaluation.comparison import TITLES, Row, Suite
from experiments.training.errors import UsageError
from experiments.training.pictures import INK, SERIES, drawn

SUFFIXES = (".png", ".svg", ".pdf")
HATCHES = ("", "//", "..", "xx")  # once every colour is taken


def check_picture(path: str | os.PathLike) -> Path:
  """The path of a picture that can be drawn. Raises UsageError for another suffix."""
  path = Path(path).expanduser()
  if path.suffix not in SUFFIXES:
    raise UsageError(f"--picture {path!s}: end the name in {', '.join(SUFFIXES)}")
  return path


def bars(rows: Sequence[Row], suites: Sequence[Suite], path: str | os.PathLike) -> Path:
  """Draws accuracy or mAP in percent; a thin line goes from the lowest to the highest group."""
  tasks = list(dict.fromkeys(row.task for row in rows))
  names = list(dict.fromkeys(row.features for row in rows))
  width = 0.84 / len(names)
  size = (max(6.4, 0.9 + 0.34 * len(names) * len(suites)), 0.9 + 2.3 * len(tasks))
  with drawn(path, len(tasks), size) as (figure, axes):
    for axis, task in zip(axes, tasks, strict=True):
      for row in (row for row in rows if row.task == task):
        i = names.index(row.features)
        place = np.arange(len(suites)) + (i - (len(names) - 1) / 2) * width
        found = [row.results[suite] for suite in suites]
        values = np.array([100 * result.value for result in found])
        ends = np.array([[100 * r.per_group[group] for group in r.ends()] for r in found]).T
        axis.bar(
          place, values, 0.92 * width, label=row.features, color=SERIES[i % len(SERIES)],
          hatch=HATCHES[i // len(SERIES) % len(HATCHES)], edgecolor="white", linewidth=0,
        )  # fmt: skip
        axis.vlines(place, *ends, color=INK, linewidth=1)
        for x, value in zip(place, values, strict=True):
          axis.annotate(
            f"{value:.0f}", (x, 0), (0, 3), textcoords="offset points", ha="center", fontsize=8,
            color="white",
          )  # fmt: skip
      measure = next(row for row in rows if row.task == task).results[suites[0]].measure
      axis.set(ylabel=f"{measure}, %", title=task, ylim=(0, 100))
      axis.grid(visible=False, axis="x")
    axes[-1].set_xticks(range(len(suites)), [TITLES[suite] for suite in suites])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
  return Path(path)
