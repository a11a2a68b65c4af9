"""Pictures of a run as PNG files: loss curves, two curves compared, a masked reconstruction.

Every function takes plain arrays and a path, returns the path, and draws without a display.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.training.errors import UsageError
from experiments.training.metrics import read_metrics

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

INK, GRID = "#22272e", "#d9dee5"
SERIES = ("#1f6fb4", "#d1602c", "#2f8f5b", "#8455a8", "#6b7280")
STYLE = {
  "font.size": 11,
  "axes.titlesize": 12,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.edgecolor": INK,
  "axes.labelcolor": INK,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.color": GRID,
  "grid.linewidth": 0.8,
  "text.color": INK,
  "xtick.color": INK,
  "ytick.color": INK,
  "legend.frameon": False,
  "lines.linewidth": 2.0,
  "lines.solid_capstyle": "round",
}
HOP_SECONDS = 0.01  # mel frames
PATCH_FRAMES = 4
DYNAMIC_DB = 80.0  # shown below the loudest cell
Curve = tuple[np.ndarray, np.ndarray]  # steps, values


def loss_curve(
  curves: str | os.PathLike | Mapping[str, Curve],
  path: str | os.PathLike,
  *,
  title: str = "Masked reconstruction loss",
  chance: float | None = 1.0,
) -> Path:
  """Draws loss over steps; noisy curves also get a running mean.

  `curves` is a `metrics.jsonl` (its parts become the curves) or {name: (steps, losses)}. `chance`
  is the loss of a model that has learnt nothing, shown as a line. Raises UsageError if nothing can
  be drawn.
  """
  source = "loss curve" if isinstance(curves, Mapping) else os.fspath(curves)
  if not isinstance(curves, Mapping):
    curves = read_curves(curves)
  curves = {name: _finite(*curve) for name, curve in curves.items()}
  curves = {name: curve for name, curve in curves.items() if len(curve[0])}
  if not curves:
    raise UsageError(f"{source}: no finite loss to draw; the run has not logged a step yet")
  with drawn(path, 1, (7.2, 4.0)) as (_, axes):
    for colour, (name, (steps, values)) in zip(_colours(len(curves)), curves.items(), strict=True):
      if len(values) > 100:
        axes[0].plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        values = _running_mean(values)
      marker = "o" if len(values) <= 30 else None
      label = f"{name}, {values[-1]:.3f} at the end"
      axes[0].plot(steps, values, color=colour, label=label, marker=marker, markersize=5)
    if chance is not None:
      axes[0].axhline(chance, color=INK, linewidth=1, linestyle=(0, (4, 3)))
      axes[0].annotate(
        "nothing learnt", (1, chance), (0, 4), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", fontsize=9,
      )  # fmt: skip
    axes[0].set(xlabel="step", ylabel="loss", title=title)
    axes[0].legend()
  return Path(path)


def compare_curves(
  ours: Sequence[float] | np.ndarray,
  reference: Sequence[float] | np.ndarray,
  path: str | os.PathLike,
  *,
  labels: tuple[str, str] = ("JAX (this library)", "PyTorch original"),
  tolerance: float | None = 1e-4,
  title: str = "Same weights, same data, same loss",
) -> Path:
  """Draws two loss curves over the same steps, and their relative difference on a log scale below.

  Raises ValueError if the lengths differ.
  """
  first, second = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
  if first.shape != second.shape or first.ndim != 1 or not first.size:
    raise ValueError(f"compare curves: lengths {first.shape} and {second.shape} must be equal")
  with drawn(path, 2, (7.2, 5.4), ratios=(2, 1)) as (_, axes):
    steps = np.arange(len(first))
    axes[0].plot(steps, second, color=SERIES[1], linewidth=6, alpha=0.35, label=labels[1])
    axes[0].plot(steps, first, color=SERIES[0], linewidth=1.6, label=labels[0])
    axes[0].set(ylabel="loss", title=title)
    axes[0].legend()
    difference = np.abs(first - second) / np.maximum(np.abs(second), 1e-12)
    # Equal losses have no place on a log scale: they are drawn at the resolution of float32.
    axes[1].semilogy(steps, np.maximum(difference, 6e-8), color=SERIES[0], linewidth=1.6)
    if tolerance is not None:
      axes[1].axhline(tolerance, color=SERIES[1], linewidth=1.2, linestyle=(0, (4, 3)))
      axes[1].annotate(
        f"tolerance {tolerance:g}", (1, tolerance), (0, -12), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", fontsize=9, color=SERIES[1],
      )  # fmt: skip
      axes[1].set_ylim(top=max(3 * tolerance, 3 * float(difference.max())))
    axes[1].set(xlabel="step", ylabel="relative\ndifference")
  return Path(path)


def compare_variants(
  curves: Mapping[str, Sequence[float] | np.ndarray],
  path: str | os.PathLike,
  *,
  title: str = "Masked reconstruction loss",
) -> Path:
  """Draws loss curves over the same steps, and how far each is from the first, in percent, below.

  Both are running means. Raises ValueError if the lengths differ.
  """
  values = {name: np.asarray(curve, np.float64) for name, curve in curves.items()}
  lengths = {name: len(curve) for name, curve in values.items()}
  if len(set(lengths.values())) != 1:
    raise ValueError(f"compare variants: lengths {lengths} must be equal")
  means = {name: _running_mean(curve) for name, curve in values.items()}
  first = next(iter(means.values()))
  steps = np.arange(len(first))
  with drawn(path, 2, (7.2, 6.0), ratios=(3, 2)) as (_, axes):
    for i, (name, mean) in enumerate(means.items()):
      style: dict[str, Any] = {"color": SERIES[i % len(SERIES)], "linewidth": 1.4}
      style["linestyle"] = "--" if i >= len(SERIES) else "-"
      axes[0].plot(steps, mean, label=name, **style)
      axes[1].plot(steps, 100 * (mean / first - 1), **style)
    axes[0].set(ylabel="loss", title=title)
    axes[0].legend(fontsize=9)
    axes[1].set(xlabel="step", ylabel="difference\n(percent)")
  return Path(path)


def reconstruction(
  target: np.ndarray,
  hidden: np.ndarray,
  prediction: np.ndarray,
  path: str | os.PathLike,
  *,
  title: str = "",
  sample_rate: int = 16_000,
) -> Path:
  """Draws input, what the encoder saw, and the reconstruction, one above the other.

  target and prediction are log-mels in dB, f[64, frames]; hidden bool[tokens] is True for patches
  (4 frames each) that were hidden. The lowest panel holds the input where it was visible and the
  prediction where it was hidden. Frames past the last whole patch are left out.
  """
  target, prediction = np.asarray(target), np.asarray(prediction)
  frames = len(hidden) * PATCH_FRAMES
  if target.ndim != 2 or target.shape[1] < frames or prediction.shape[1] < frames:
    raise ValueError(
      f"reconstruction: {len(hidden)} patches need {frames} frames, "
      f"found {target.shape} and {prediction.shape}"
    )
  target, prediction = target[:, :frames], prediction[:, :frames]
  gone = np.repeat(np.asarray(hidden, bool), PATCH_FRAMES)
  seen = np.where(gone[None], np.nan, target)
  mixed = np.where(gone[None], prediction, target)
  with drawn(path, 3, (9.0, 6.6)) as (figure, axes):
    loudest = float(np.nanmax(target))
    quietest = max(float(np.nanmin(target)), loudest - DYNAMIC_DB)
    seconds = frames * HOP_SECONDS
    share = f"{100 * np.mean(hidden):.0f} % hidden"
    panels = {"input": target, f"visible to the encoder ({share})": seen, "reconstruction": mixed}
    for axis, (name, values) in zip(axes, panels.items(), strict=True):
      axis.set_facecolor("#eef0f3")
      axis.grid(visible=False)
      image = axis.imshow(
        values, origin="lower", aspect="auto", cmap="magma", vmin=quietest, vmax=loudest,
        extent=(0, seconds, -0.5, len(target) - 0.5), interpolation="nearest",
      )  # fmt: skip
      ticks = [125, 500, 1000, 2000, 4000] if sample_rate == 16_000 else [250, 1000, 4000, 12_000]
      axis.set_yticks([_mel_bin(hz, len(target), sample_rate) for hz in ticks])
      axis.set_yticklabels([f"{hz / 1000:g}k" if hz >= 1000 else str(hz) for hz in ticks])
      axis.set(ylabel="Hz", title=name)
    axes[-1].set_xlabel("seconds")
    if title:
      figure.suptitle(title, x=0.01, ha="left")
    figure.colorbar(image, ax=list(axes), label="dB", pad=0.015, fraction=0.03, aspect=40)
  return Path(path)


def read_curves(path: str | os.PathLike, key: str = "loss") -> dict[str, Curve]:
  """Curves of a `metrics.jsonl`: {part: (steps, values)} of the lines that hold `key`."""
  parts: dict[str, list[tuple[int, float]]] = {}
  for row in read_metrics(path):
    if key in row:
      parts.setdefault(row["part"], []).append((row["step"], float(row[key])))
  columns = {part: np.array(pairs, np.float64).T for part, pairs in parts.items()}
  return {part: (steps, values) for part, (steps, values) in columns.items()}


def _finite(steps: Sequence[int] | np.ndarray, values: Sequence[float] | np.ndarray) -> Curve:
  steps, values = np.asarray(steps), np.asarray(values, np.float64)
  keep = np.isfinite(values)
  return steps[keep], values[keep]


def _running_mean(values: np.ndarray) -> np.ndarray:
  """Centred mean over about 2 % of the curve; the window shrinks at the ends."""
  half = max(1, len(values) // 100)
  total = np.concatenate([[0.0], np.cumsum(values)])
  at = np.arange(len(values))
  low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
  return (total[high] - total[low]) / (high - low)


def _mel_bin(hz: float, bins: int, sample_rate: int) -> float:
  """Row (fractional) whose HTK mel filter is centred on `hz`."""
  mel, top = (2595 * np.log10(1 + f / 700) for f in (hz, sample_rate / 2))
  return float(mel / top * (bins + 1) - 1)


def _colours(count: int) -> list[str]:
  return [SERIES[i % len(SERIES)] for i in range(count)]


@contextlib.contextmanager
def drawn(
  path: str | os.PathLike,
  rows: int,
  size: tuple[float, float],
  ratios: tuple[int, ...] | None = None,
  shared: bool = True,
) -> Iterator[tuple[Figure, list[Axes]]]:
  """A figure of rows, and these; saved to `path` at the end of the block.

  shared: the rows have one x axis.

  Drawn by Agg without pyplot, so that no display is needed and no global state is touched.
  """
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(rows, 1, sharex=shared, squeeze=False, height_ratios=ratios)
    yield figure, list(axes[:, 0])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
