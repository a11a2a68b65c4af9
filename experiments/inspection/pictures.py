"""Pictures of a DyMN's dynamics: what disturbances leave, and what Dy-ReLUs map to what."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.training import pictures

RANGE = (-4.0, 4.0)  # of inputs, which follow a batch norm
_BINS = 161
_COLUMNS = 5


def draw_left(left: Mapping[str, tuple[float, float]], path: str | os.PathLike) -> Path:
  """Bars of {name: (share that is left here, in the paper)}; returns the path."""
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  names = list(left)
  at = np.arange(len(names))
  with matplotlib.rc_context(pictures.STYLE):
    figure = Figure(figsize=(7.6, 1.6 + 0.52 * len(names)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, label in enumerate(("here", "paper (dymn10, AudioSet)")):
      shares = [left[name][i] for name in names]
      axes.barh(at + 0.4 * i - 0.2, shares, 0.36, label=label, color=pictures.SERIES[i])
    axes.set_yticks(at, names, fontsize=9)
    axes.invert_yaxis()
    axes.axvline(1.0, color=pictures.INK, linewidth=0.8)
    axes.set(title="What a disturbance leaves", xlabel="share of the undisturbed score")
    axes.legend(loc="lower right", fontsize=9)
    figure.savefig(path)
  return Path(path)


def draw_relus(blocks: Mapping[str, np.ndarray], path: str | os.PathLike) -> Path:
  """Density of outputs over inputs of every Dy-ReLU; returns the path.

  blocks: name -> coefficients f32[b, c, 2 M] over clips and channels: M slopes, then M intercepts.
  Brightness tells how many of the clips' and channels' lines pass a place.
  """
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  columns = min(_COLUMNS, len(blocks))
  rows = math.ceil(len(blocks) / columns)
  with matplotlib.rc_context({**pictures.STYLE, "axes.grid": False, "axes.titlesize": 9}):
    figure = Figure(figsize=(2.1 * columns, 2.2 * rows + 0.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(blocks) :]:
      axes.axis("off")
    for axes, (name, coefficients) in zip(panels.flat, blocks.items(), strict=False):
      axes.imshow(
        mapping_density(coefficients),
        origin="lower",
        extent=(*RANGE, *RANGE),
        cmap="magma",
        aspect="equal",
        interpolation="nearest",
      )
      axes.plot(RANGE, RANGE, color="white", linewidth=0.5, linestyle=":")
      axes.set_title(name)
    figure.supxlabel("input of Dy-ReLU", fontsize=10)
    figure.supylabel("output", fontsize=10)
    figure.savefig(path)
  return Path(path)


def mapping_density(coefficients: np.ndarray) -> np.ndarray:
  """[output, input]: log of how many lines pass, over clips and channels, each input's sum 1."""
  lines = coefficients.reshape(-1, coefficients.shape[-1])
  pieces = lines.shape[1] // 2
  x = np.linspace(*RANGE, _BINS)
  y = np.max(lines[:, :pieces, None] * x + lines[:, pieces:, None], axis=1)
  low, high = RANGE
  bins = np.clip(((y - low) / (high - low) * (_BINS - 1)).round().astype(int), -1, _BINS)
  counts = np.zeros((_BINS + 2, _BINS))
  np.add.at(counts, (bins + 1, np.broadcast_to(np.arange(_BINS), bins.shape)), 1)
  inside = counts[1:-1] / len(lines)
  return np.log10(np.maximum(inside, 1e-4))
