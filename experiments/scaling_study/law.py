"""Laws of loss over model size and amount of data, and their fit.

    L(N, D) = E + A / N^alpha + B / D^beta        over two variables
    L(N)    = E + A / N^alpha                     over one; E may be left out

The fit is that of Hoffmann et al. 2022 (arXiv 2203.15556, appendix D.3): the sum of Huber losses
(delta 1e-3) of the difference in log L is minimised by L-BFGS from a grid of starts. Two departures
that change no minimum: variables are divided by their geometric mean, so that the grid can be
coarse whatever the units, and L-BFGS runs from the best points of the grid alone. Huber losses are
summed and the tolerance is tight: with their mean, the published one stopped short of the minimum
(Besiroglu et al. 2024, arXiv 2404.10102).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

DELTA = 1e-3
EXPONENTS = (-1.0, 4.0)  # what an exponent is kept within; a law at either end is none
# Least and most share of the lowest loss that the floor may be.
FLOOR = (1e-4, 1.0)
STARTS = 12  # points of the grid from which L-BFGS runs

Variables = Float[np.ndarray, "n v"]
Losses = Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Law:
  """A fitted law.

  Attributes:
    floor: E, the loss that neither size nor data lowers; 0 for a law without one.
    shares: what each variable adds to the loss at its centre: A / centre^alpha.
    exponents: alpha, beta.
    centres: geometric means of the variables that were fitted.
    has_floor: whether E was fitted.
  """

  floor: float
  shares: tuple[float, ...]
  exponents: tuple[float, ...]
  centres: tuple[float, ...]
  has_floor: bool

  @property
  def factors(self) -> tuple[float, ...]:
    """A, B, in the units of the variables."""
    terms = zip(self.shares, self.centres, self.exponents, strict=True)
    return tuple(share * centre**exponent for share, centre, exponent in terms)

  @property
  def count(self) -> int:
    """How many numbers were fitted."""
    return 2 * len(self.shares) + self.has_floor

  def __call__(self, variables: Variables) -> Losses:
    """The loss at values of the variables, a row each."""
    ratios = np.asarray(variables, np.float64) / np.array(self.centres)
    return self.floor + (ratios ** -np.array(self.exponents)) @ np.array(self.shares)


def fit_law(
  variables: Variables,
  losses: Losses,
  *,
  floor: bool = True,
  delta: float = DELTA,
  near: Sequence[Law] = (),
) -> Law:
  """The law that is nearest to `losses`, f64[n] > 0, at `variables`, f64[n, v] > 0.

  delta: of the Huber loss; far above all differences in log L it is least squares.
  near: laws to start from in place of the grid, which must have the same variables.

  Raises ValueError where a loss or variable is not positive and finite.
  """
  variables, losses = np.asarray(variables, np.float64), np.asarray(losses, np.float64)
  for name, values in (("variables", variables), ("losses", losses)):
    if not (values.size and np.all(np.isfinite(values)) and np.all(values > 0)):
      raise ValueError(f"law: {name} must all be positive and finite")
  centres = near[0].centres if near else tuple(np.exp(np.mean(np.log(variables), axis=0)))
  logs = np.log(variables / np.array(centres))
  target = np.log(losses)
  lowest = float(np.log(losses.min()))
  if near:
    starts = np.array([_theta(law) for law in near])
  else:
    grid = _grid(variables.shape[1], floor) + _offsets(variables.shape[1], floor, lowest)
    starts = grid[np.argsort(_scores(grid, logs, target, floor), kind="stable")[:STARTS]]
  free = [(-12.0, 6.0), EXPONENTS] * variables.shape[1]
  bounds = [*([tuple(np.log(FLOOR))] if floor else []), *free]
  shift = _offsets(variables.shape[1], floor, lowest)
  bounds = [(low + by, high + by) for (low, high), by in zip(bounds, shift, strict=True)]
  limits = np.array(bounds).T
  found = [
    minimize(
      _objective,
      np.clip(start, *limits),
      (logs, target, floor, delta),
      method="L-BFGS-B",
      jac=True,
      bounds=bounds,
      options={"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-9},
    )
    for start in starts
  ]
  best = min(found, key=lambda result: result.fun).x
  terms = best[1:] if floor else best
  return Law(
    float(np.exp(best[0])) if floor else 0.0,
    tuple(float(x) for x in np.exp(terms[0::2])),
    tuple(float(x) for x in terms[1::2]),
    tuple(float(c) for c in centres),
    floor,
  )


def at_bound(law: Law, losses: Losses) -> tuple[str, ...]:
  """Names of what of a fit lies at an end of what was allowed: E, alpha, beta."""
  names = []
  if law.has_floor:
    share = law.floor / float(np.min(losses))
    if share < 2 * FLOOR[0] or share > 0.9999 * FLOOR[1]:
      names.append("E")
  low, high = EXPONENTS
  for name, exponent in zip(("alpha", "beta"), law.exponents, strict=False):
    if exponent < low + 1e-3 or exponent > high - 1e-3:
      names.append(name)
  return tuple(names)


# --- parameters as the optimiser sees them: [log E,] log share, exponent, log share, exponent ---


def _theta(law: Law) -> np.ndarray:
  terms = [x for s, e in zip(law.shares, law.exponents, strict=True) for x in (np.log(s), e)]
  return np.array([np.log(law.floor), *terms] if law.has_floor else terms)


@functools.cache
def _grid(variables: int, floor: bool) -> np.ndarray:
  """Starts, relative to the lowest loss: floors, shares of it, exponents."""
  shares, exponents = np.log([0.003, 0.02, 0.1, 0.3, 0.8]), (0.1, 0.3, 0.6, 1.2, 2.0)
  if not floor and variables == 1:
    shares = np.log([0.5, 1.0, 2.0])
  axes = [np.log([0.1, 0.5, 0.8, 0.97])] if floor else []
  return np.array(list(itertools.product(*axes, *((shares, exponents) * variables))))


def _offsets(variables: int, floor: bool, lowest: float) -> np.ndarray:
  """What makes logarithms of shares of the lowest loss those of losses."""
  return np.array([*([lowest] if floor else []), *([lowest, 0.0] * variables)])


def _terms(theta: np.ndarray, logs: np.ndarray, floor: bool) -> np.ndarray:
  """Logarithms of the terms of the law: [..., n, terms], those of the variables first."""
  rest = theta[..., 1:] if floor else theta
  shares, exponents = rest[..., None, 0::2], rest[..., None, 1::2]
  terms = shares - exponents * logs
  if not floor:
    return terms
  constant = np.broadcast_to(theta[..., None, :1], (*terms.shape[:-1], 1))
  return np.concatenate([terms, constant], axis=-1)


def _huber(residuals: np.ndarray, delta: float) -> np.ndarray:
  size = np.abs(residuals)
  return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))


def _scores(thetas: np.ndarray, logs: np.ndarray, target: np.ndarray, floor: bool) -> np.ndarray:
  """How far many starts at once are from the losses.

  In squares: far from the minimum the published loss is all tails and hardly tells starts apart.
  """
  logarithms = np.logaddexp.reduce(_terms(thetas, logs, floor), axis=-1)
  return np.sum(np.square(logarithms - target), axis=-1)


def _objective(
  theta: np.ndarray, logs: np.ndarray, target: np.ndarray, floor: bool, delta: float
) -> tuple[float, np.ndarray]:
  """Sum of Huber losses and its gradient, both divided by delta."""
  terms = _terms(theta, logs, floor)
  top = np.max(terms, axis=-1, keepdims=True)
  parts = np.exp(terms - top)
  total = np.sum(parts, axis=-1, keepdims=True)
  residuals = (top + np.log(total))[:, 0] - target
  slopes = np.clip(residuals / delta, -1, 1)[:, None] * parts / total
  variables = logs.shape[1]
  gradient = np.zeros_like(theta)
  first = int(floor)
  gradient[first::2] = np.sum(slopes[:, :variables], axis=0)
  gradient[first + 1 :: 2] = -np.sum(slopes[:, :variables] * logs, axis=0)
  if floor:
    gradient[0] = np.sum(slopes[:, -1])
  return float(np.sum(_huber(residuals, delta))) / delta, gradient
