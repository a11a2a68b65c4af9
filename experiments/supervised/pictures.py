"""Pictures of a supervised run: who is taken for whom."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evaluation.scores import Scores
from experiments.training import pictures

_NAMED = 60  # classes; more names cannot be read


def draw_confusions(
  parts: Mapping[str, Scores], classes: Sequence[str], path: str | os.PathLike
) -> Path:
  """Draws who is taken for whom: one panel for each part of a set, beside each other.

  Counts [class, predicted class] are shown as shares of each class. Returns the path.
  """
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  side = min(14.0, 3.0 + 0.28 * min(len(classes), _NAMED))
  with matplotlib.rc_context({**pictures.STYLE, "axes.grid": False}):
    figure = Figure(figsize=(side * len(parts) + 0.8, side), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(parts), squeeze=False, sharey=True)[0]
    for axes, (name, scores) in zip(panels, parts.items(), strict=True):
      image = _confusion(axes, scores, classes, name)
    panels[0].set_ylabel("class")
    figure.colorbar(image, ax=list(panels), label="share of the class", shrink=0.7)
    figure.savefig(path)
  return Path(path)


def _confusion(axes: Any, scores: Scores, classes: Sequence[str], name: str) -> Any:
  confusion = scores.confusion
  assert confusion is not None
  count = len(classes)
  share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
  image = axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest")
  title = f"{name}: {scores.means['accuracy']:.1%} right"
  axes.set(title=title, xlabel="answer")
  if count <= _NAMED:
    axes.set_xticks(range(count), list(classes), rotation=90, fontsize=8)
    axes.set_yticks(range(count), list(classes), fontsize=8)
  if count <= 12:
    for i, j in np.argwhere(confusion):
      colour = "white" if share[i, j] > 0.5 else pictures.INK
      how = {"ha": "center", "va": "center", "color": colour, "fontsize": 8}
      axes.text(j, i, str(confusion[i, j]), **how)
  return image
