"""The picture of a study: every fold or seed is a point, every row a line, the mean a bar."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.training.pictures import INK, SERIES, drawn


def points_by_row(
  rows: Mapping[str, Sequence[float]], path: str | os.PathLike, *, label: str, title: str
) -> Path:
  """Draws {row: values} from top to bottom over one axis `label`; returns the path.

  Points that would lie on each other stand side by side, lowest first.
  """
  with drawn(path, 1, (7.2, 1.1 + 0.55 * len(rows))) as (_, axes):
    for i, values in enumerate(rows.values()):
      ordered = np.sort(values)
      beside = i + 0.28 * (np.arange(len(ordered)) - (len(ordered) - 1) / 2) / max(1, len(ordered))
      axes[0].plot(ordered, beside, "o", color=SERIES[0], alpha=0.75, markersize=6)
      mean = float(np.mean(ordered))
      axes[0].plot([mean, mean], [i - 0.3, i + 0.3], color=SERIES[1], linewidth=2.5)
      axes[0].annotate(
        f"{mean:.1f}", (mean, i - 0.32), ha="center", va="bottom", fontsize=9, color=INK
      )
    axes[0].set_yticks(range(len(rows)), list(rows))
    axes[0].set(xlabel=label, title=title, ylim=(len(rows) - 0.4, -0.75))
    axes[0].grid(visible=False, axis="y")
  return Path(path)
