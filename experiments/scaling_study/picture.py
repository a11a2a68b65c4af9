"""The picture of a scaling study: loss over size, over audio and over operations, on log axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.configs.scaling import ScalingConfig
from experiments.scaling_study.held_out import Point
from experiments.scaling_study.laws import (
  HOURS,
  OPERATIONS,
  PARAMETERS,
  TITLES,
  most,
  values_of,
)
from experiments.scaling_study.uncertainty import Fitted
from experiments.training.pictures import SERIES, drawn

SAMPLES = 60  # points of a drawn law


def draw(
  points: Sequence[Point], laws: Mapping[str, Fitted], cfg: ScalingConfig, path: Path
) -> Path:
  """Draws the runs as points and the laws as lines with bands; returns the path.

  Upper panels: the runs of the most steps, a line for each amount of audio or size, from the law
  over both. Lowest: all runs, a line for each size, and the law of the best.
  """
  longest = most(points, "steps")
  joint = laws.get(f"size and audio, {longest[0].steps:,} steps")
  with drawn(path, 3, (7.2, 11.0), shared=False) as (_, axes):
    for axis, (name, group, label) in zip(
      axes[:2],
      (
        (PARAMETERS, lambda p: p.hours, lambda p: f"{p.hours:.3g} h of audio"),
        (HOURS, lambda p: p.size, lambda p: p.size),
      ),
      strict=True,
    ):
      _panel(axis, longest, joint, cfg, name, group, label)
      axis.set(title=f"Held-out loss after {longest[0].steps:,} steps")
    _compute(axes[2], points, laws.get("compute"), cfg)
    for axis in axes:
      axis.set_xscale("log")
      axis.set_yscale("log")
      axis.set(ylabel="held-out loss")
      axis.yaxis.set_major_formatter("{x:.3g}")
      axis.yaxis.set_minor_formatter("{x:.3g}")
      axis.tick_params(axis="x", which="minor", labelsize=7)
      axis.legend(fontsize=9)
  return Path(path)


def _groups(points: Sequence[Point], key: Callable[[Point], Any]) -> list[list[Point]]:
  keys = list(dict.fromkeys(key(p) for p in points))
  return [[p for p in points if key(p) == k] for k in keys]


def _panel(
  axis: Any,
  points: Sequence[Point],
  joint: Fitted | None,
  cfg: ScalingConfig,
  name: str,
  group: Callable[[Point], Any],
  label: Callable[[Point], str],
) -> None:
  """Loss over one variable, a colour for each value of the other."""
  # Seeds have shares of slightly different lengths: they belong to one line.
  groups = _groups(points, (lambda p: p.share) if name == PARAMETERS else group)
  for number, runs in enumerate(groups):
    colour = SERIES[number % len(SERIES)]
    x = values_of(runs, cfg, name)[:, 0]
    axis.plot(
      x, [p.loss for p in runs], "o", color=colour, label=label(runs[0]), markersize=6, alpha=0.85
    )
    if joint is None:
      continue
    at = _between(x)
    other = float(np.mean(values_of(runs, cfg, HOURS if name == PARAMETERS else PARAMETERS)))
    columns = (at, np.full(SAMPLES, other))
    _law(axis, joint, at, np.stack(columns if name == PARAMETERS else columns[::-1], 1), colour)
  axis.set(xlabel=TITLES[name])


def _compute(axis: Any, points: Sequence[Point], law: Fitted | None, cfg: ScalingConfig) -> None:
  for number, runs in enumerate(_groups(points, lambda p: p.size)):
    x = values_of(runs, cfg, OPERATIONS)[:, 0]
    colour = SERIES[number % len(SERIES)]
    axis.plot(
      x, [p.loss for p in runs], "o", color=colour, label=runs[0].size, markersize=6, alpha=0.85
    )
  if law is not None:
    at = _between(values_of(points, cfg, OPERATIONS)[:, 0])
    _law(axis, law, at, at[:, None], SERIES[-1], "law of the best runs")
  axis.set(xlabel="operations of training", title="All runs")


def _between(x: np.ndarray) -> np.ndarray:
  """Values from the lowest to the highest and a little beyond."""
  return np.geomspace(x.min() / 1.2, x.max() * 1.2, SAMPLES)


def _law(
  axis: Any, law: Fitted, at: np.ndarray, variables: np.ndarray, colour: str, label: str = ""
) -> None:
  axis.plot(at, law.law(variables), color=colour, linewidth=1.6, label=label or None)
  band = law.band(variables)
  if band is not None:
    axis.fill_between(at, *band, color=colour, alpha=0.15, linewidth=0)
