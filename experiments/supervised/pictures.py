"""Pictures of a supervised run: who is taken for whom."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.training import pictures

_NAMED = 60  # classes; more names cannot be read


def draw_confusion(
  confusion: np.ndarray, classes: Sequence[str], path: str | os.PathLike, title: str
) -> Path:
  """Draws counts [class, predicted class] as shares of each class; returns the path."""
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  count = len(classes)
  total = confusion.sum(axis=1, keepdims=True)
  share = confusion / np.maximum(total, 1)
  side = min(14.0, 3.0 + 0.28 * min(count, _NAMED))
  with matplotlib.rc_context({**pictures.STYLE, "axes.grid": False}):
    figure = Figure(figsize=(side + 0.8, side), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of the class", shrink=0.7)
    axes.set(title=title, xlabel="answer", ylabel="class")
    if count <= _NAMED:
      axes.set_xticks(range(count), list(classes), rotation=90, fontsize=8)
      axes.set_yticks(range(count), list(classes), fontsize=8)
    if count <= 12:
      for i in range(count):
        for j in range(count):
          if confusion[i, j]:
            colour = "white" if share[i, j] > 0.5 else pictures.INK
            axes.text(
              j, i, str(confusion[i, j]), ha="center", va="center", color=colour, fontsize=8
            )
    figure.savefig(path)
  return Path(path)
