"""A picture of tags over time: the waveform, and below it a row per tag."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.audio_files import read_blocks
from experiments.tagging.files import Tagged
from experiments.tagging.labels import Label
from experiments.training.pictures import INK, SERIES, STYLE

COLUMNS = 1500  # of the waveform
LONGEST_NAME = 34


def envelope(
  path: str | os.PathLike, rate: int, seconds: float, columns: int = COLUMNS
) -> Float[np.ndarray, "2 columns"]:
  """Lowest and highest sample of each of `columns` equal stretches of a recording."""
  step = max(1, -(-round(seconds * rate) // columns))
  low, high, rest = [], [], np.zeros(0, np.float32)
  for block in read_blocks(path, rate):
    rest = np.concatenate([rest, block])
    whole = rest[: len(rest) // step * step].reshape(-1, step)
    low.append(whole.min(axis=1))
    high.append(whole.max(axis=1))
    rest = rest[whole.size :]
  if len(rest):
    low.append(rest.min(keepdims=True))
    high.append(rest.max(keepdims=True))
  return np.stack([np.concatenate(low), np.concatenate(high)])


def shown(file: Tagged, k: int) -> np.ndarray:
  """Indices of the k tags with the highest probability in any window, highest first."""
  return np.argsort(-file.probabilities.max(axis=0), kind="stable")[:k]


def edges(file: Tagged, hop: float) -> Float[np.ndarray, " n+1"]:
  """Borders, in seconds, of the cells that stand for the windows.

  A cell is a hop long and lies in the middle of its window; the first begins and the last ends
  with the recording. Where windows do not overlap they are their own cells.
  """
  starts = np.array([start for start, _ in file.spans])
  length = max(end - start for start, end in file.spans)
  borders = starts[1:] + (length - hop) / 2 if length > hop else starts[1:]
  return np.concatenate([[0.0], borders, [max(file.seconds, *borders, 1e-3)]])


def heatmap(
  file: Tagged,
  labels: Sequence[Label],
  wave: Float[np.ndarray, "2 columns"],
  path: str | os.PathLike,
  *,
  k: int = 10,
  hop: float,
) -> Path:
  """Draws the waveform (an `envelope`) above the probabilities of the k best tags as a PNG file."""
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  chosen = shown(file, k)
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(9.6, 2.3 + 0.3 * len(chosen)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    ratios = (1.0, 0.22 * max(4, len(chosen)))
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
    times = np.linspace(0, file.seconds, wave.shape[1])
    top.fill_between(times, wave[0], wave[1], color=SERIES[0], linewidth=0.4)
    loudest = max(1e-4, float(np.abs(wave).max()))
    top.set(ylim=(-1.05 * loudest, 1.05 * loudest), yticks=[], title=file.path.name)
    top.spines[["left", "bottom"]].set_visible(False)
    top.grid(visible=False)
    top.tick_params(bottom=False)
    rows = file.probabilities[:, chosen].T
    image = below.pcolormesh(
      edges(file, hop), np.arange(len(chosen) + 1), rows, cmap="BuPu", vmin=0, vmax=1
    )
    below.grid(visible=False)
    below.invert_yaxis()
    below.set_yticks(np.arange(len(chosen)) + 0.5, [_short(labels[n].name) for n in chosen])
    below.tick_params(left=False)
    for line in range(1, len(chosen)):
      below.axhline(line, color="white", linewidth=1.2)
    below.set(xlim=(0, max(file.seconds, 1e-3)), xlabel="seconds")
    below.spines["bottom"].set_color(INK)
    figure.colorbar(image, ax=below, label="probability", pad=0.015, fraction=0.04, aspect=20)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
  return Path(path)


def _short(name: str) -> str:
  # "$" would start a formula.
  name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1].rstrip(" ,") + "…"
  return name.replace("$", r"\$")
