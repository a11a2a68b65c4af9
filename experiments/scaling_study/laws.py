"""Which laws a grid of finished runs is fitted with.

| law | runs | variables |
| --- | --- | --- |
| size and audio | of one length, for each length | parameters, hours of audio |
| size and training | of one amount of audio, for each | parameters, hours heard |
| size | of the most audio and steps | parameters |
| audio | of the largest model and the most steps | hours of audio |
| compute | that no run with as few operations beats | operations |

The second needs several lengths, and is the published reading of D, audio seen once; the first is
what an archive of a given size is worth, heard as often as the steps ask for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.configs.scaling import ScalingConfig
from experiments.scaling_study.held_out import Point, as_numpy
from experiments.scaling_study.uncertainty import Fitted, distinct, fit

PARAMETERS, HOURS, HEARD, OPERATIONS = "parameters", "hours", "seen_hours", "flops"
TITLES = {
  PARAMETERS: "parameters",
  HOURS: "hours of audio",
  HEARD: "hours heard",
  OPERATIONS: "operations",
}
FEWEST_FOR_FLOOR = 4  # values of a single variable; three lie on a law with a floor exactly
FEWEST = 3  # runs that a law is fitted to


def fit_laws(points: Sequence[Point], cfg: ScalingConfig) -> dict[str, Fitted]:
  """{what the law is of: the law}, of all that the runs have enough values for."""
  found: dict[str, Fitted] = {}
  for steps in sorted({p.steps for p in points}):
    runs = [p for p in points if p.steps == steps]
    if varied(runs, cfg, PARAMETERS) and varied(runs, cfg, HOURS):
      found[f"size and audio, {steps:,} steps"] = _fit(runs, (PARAMETERS, HOURS), cfg)
  if len({p.steps for p in points}) > 1:
    for share in sorted({p.share for p in points}):
      runs = [p for p in points if p.share == share]
      if varied(runs, cfg, PARAMETERS) and varied(runs, cfg, HEARD):
        title = f"size and training, {100 * share:.3g} % of the audio"
        found[title] = _fit(runs, (PARAMETERS, HEARD), cfg)
  best = best_runs(points)
  for title, runs, name in (
    ("size", most(points, "share", "steps"), PARAMETERS),
    ("audio", most(points, "size", "steps"), HOURS),
    ("compute", best, OPERATIONS),
  ):
    if varied(runs, cfg, name) and len(runs) >= FEWEST:
      found[title] = _fit(runs, (name,), cfg)
  return found


def values_of(points: Sequence[Point], cfg: ScalingConfig, *names: str) -> np.ndarray:
  """f64[n, names]: variables of runs; what counts as parameters is the study's to say."""
  counted = "encoder" if cfg.parameters == "encoder" else PARAMETERS
  return as_numpy(points, *(counted if name == PARAMETERS else name for name in names))


def varied(points: Sequence[Point], cfg: ScalingConfig, name: str) -> bool:
  """Whether runs have more than one value of a variable."""
  return distinct(values_of(points, cfg, name)[:, 0]) > 1


def most(points: Sequence[Point], *names: str) -> list[Point]:
  """The runs with the highest value of each attribute in turn; `size` goes by parameters."""
  chosen = list(points)
  for name in names:
    if name == "size":
      top = max(p.encoder + p.decoder for p in chosen)
      chosen = [p for p in chosen if p.encoder + p.decoder == top]
    else:
      top = max(getattr(p, name) for p in chosen)
      chosen = [p for p in chosen if getattr(p, name) == top]
  return chosen


def best_runs(points: Sequence[Point]) -> list[Point]:
  """The runs whose loss is below that of every run with as few operations, cheapest first."""
  found: list[Point] = []
  for p in sorted(points, key=lambda p: (p.flops, p.loss)):
    if not found or p.loss < found[-1].loss:
      found.append(p)
  return found


def _fit(points: Sequence[Point], names: tuple[str, ...], cfg: ScalingConfig) -> Fitted:
  variables = values_of(points, cfg, *names)
  floor = len(names) > 1 or distinct(variables[:, 0]) >= FEWEST_FOR_FLOOR
  return fit(
    variables,
    np.array([p.loss for p in points]),
    names,
    floor=floor,
    resamples=cfg.resamples,
    confidence=cfg.confidence,
  )
