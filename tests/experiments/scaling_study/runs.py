"""Finished runs whose losses follow a known law."""

import numpy as np

from experiments.scaling_study.held_out import Point
from experiments.scaling_study.law import Law

LAW = Law(0.2, (0.035, 0.09), (0.5, 0.4), (1e6, 0.25), True)
SIZES = {"small": 2e5, "middle": 8e5, "large": 3.2e6}
HOURS = (0.06, 0.25, 1.0)


def grid(sizes=SIZES, hours=HOURS, seeds=1):
  """f64[n, 2]: parameters and hours of every cell, `seeds` times."""
  cells = [(n, d) for n in sizes.values() for d in hours for _ in range(seeds)]
  return np.array(cells, np.float64)


def losses(variables, noise=0.0, seed=0, law=LAW):
  """Of the law, with relative noise."""
  draw = np.random.default_rng(seed)
  return law(variables) * np.exp(noise * draw.normal(size=len(variables)))


def points(noise=0.0, steps=(400,), seed=0, **how):
  """A finished run for each cell and length; a longer one does better."""
  variables = grid(**how)
  names = {n: name for name, n in SIZES.items()}
  found = []
  for count in steps:
    values = losses(variables, noise, seed) * (400 / count) ** 0.1
    for (n, hours), loss in zip(variables, values, strict=True):
      name = names[n]
      heard = count * 64 * 0.64 / 3600
      found.append(
        Point(
          *(f"{name}_{hours}_{count}", name, int(n) - 1000, 1000, hours, hours),
          *(count, 0, heard, 6.0 * n * count, float(loss), {"digits": 0.5}),
        )
      )
  return found
