"""How well a fitted law is known: a bootstrap over the runs, and what the data cannot tell.

Runs are drawn with replacement, as by Hoffmann et al. 2022 (arXiv 2203.15556, appendix D.3), and
fitted again; a draw that no longer decides the law is drawn anew. docs/scaling_study.md has how
often such intervals hold the truth on a grid of nine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from experiments.scaling_study.law import DELTA, Law, Losses, Variables, at_bound, fit_law

GREEK = ("alpha", "beta")
SPARE = 3  # runs beyond the numbers of a law from which on its intervals go without remark
ALIKE = 0.1  # relative difference of values that count as one: seeds draw shares of like lengths
TRIES = 100  # draws of runs before one that leaves the law undecided is taken


@dataclasses.dataclass(frozen=True)
class Fitted:
  """A law and the laws of the resampled runs.

  Attributes:
    law: of the runs themselves.
    names: of the variables.
    resampled: laws; empty without a bootstrap.
    confidence: of intervals and bands, which reach from (1 - confidence) / 2 to the opposite.
    runs: how many were fitted.
    doubts: what the data cannot tell, a sentence each.
  """

  law: Law
  names: tuple[str, ...]
  resampled: tuple[Law, ...]
  confidence: float
  runs: int
  doubts: tuple[str, ...]

  def interval(self, of: Callable[[Law], float]) -> tuple[float, float] | None:
    """Where a figure of the law lies; None without a bootstrap."""
    if not self.resampled:
      return None
    low, high = np.quantile([of(law) for law in self.resampled], self._ends)
    return float(low), float(high)

  def band(self, variables: Variables) -> Float[np.ndarray, "2 n"] | None:
    """Lower and upper end of the law's loss; None without a bootstrap."""
    if not self.resampled:
      return None
    return np.quantile([law(variables) for law in self.resampled], self._ends, axis=0)

  @property
  def _ends(self) -> list[float]:
    tail = (1 - self.confidence) / 2
    return [tail, 1 - tail]


def fit(
  variables: Variables,
  losses: Losses,
  names: tuple[str, ...],
  *,
  floor: bool = True,
  resamples: int = 400,
  confidence: float = 0.9,
  delta: float = DELTA,
  seed: int = 0,
) -> Fitted:
  """Fits a law to runs, a row of `variables` and a loss each, and says how well it is known.

  Runs of the same variables, such as those of several seeds, count one by one. With no more runs
  than numbers to fit there is no bootstrap: the law goes through the runs, whatever their noise.
  """
  law = fit_law(variables, losses, floor=floor, delta=delta)
  resampled: tuple[Law, ...] = ()
  if resamples and len(losses) > law.count:
    draw = np.random.default_rng(seed)
    resampled = tuple(
      _again(law, np.asarray(variables), np.asarray(losses), draw, delta) for _ in range(resamples)
    )
  fitted = Fitted(law, names, resampled, confidence, len(losses), ())
  return dataclasses.replace(fitted, doubts=doubts(fitted, variables, losses))


def _again(
  law: Law, variables: Variables, losses: Losses, draw: np.random.Generator, delta: float
) -> Law:
  """The law of runs that are drawn with replacement."""
  for _ in range(TRIES):
    rows = draw.integers(0, len(losses), len(losses))
    if _decides(variables[rows], law.count):
      break
  return fit_law(variables[rows], losses[rows], floor=law.has_floor, delta=delta, near=(law,))


def _decides(variables: Variables, count: int) -> bool:
  """Whether there are as many cells as numbers to fit, and two values of every variable."""
  several = all(len(np.unique(column)) > 1 for column in variables.T)
  return several and len(np.unique(variables, axis=0)) >= count


def _fall(number: int, column: Losses) -> Callable[[Law], float]:
  """By how much the loss falls from the least to the largest value of a variable."""
  ends = np.array([column.min(), column.max()])

  def of(law: Law) -> float:
    ratios = ends / law.centres[number]
    least, largest = law.shares[number] * ratios ** -law.exponents[number]
    return float(least - largest)

  return of


def distinct(column: Losses) -> int:
  """How many values a variable has, those alike being one."""
  return 1 + int(np.sum(np.diff(np.sort(np.log(column))) > ALIKE))


def doubts(fitted: Fitted, variables: Variables, losses: Losses) -> tuple[str, ...]:
  """What the runs cannot tell, a sentence each."""
  law, told = fitted.law, []
  names = [name.replace("_", " ") for name in fitted.names]
  cells = len(np.unique(np.asarray(variables), axis=0))
  if cells <= law.count:
    told.append(f"{cells} cells for {law.count} numbers: the law is one of many that fit as well")
  elif cells < law.count + SPARE:
    told.append(f"{cells} cells for {law.count} numbers: intervals are rough")
  for name, column in zip(names, np.asarray(variables).T, strict=True):
    values, needed = distinct(column), 2 + law.has_floor
    if values < needed:
      told.append(f"{values} values of {name}, where {needed} tell an exponent")
  for name in at_bound(law, losses):
    end = "at its bound" if name != "E" else "at its bound, 0 or the lowest loss"
    told.append(f"{name} is {end}: the runs do not decide it")
  # Where a variable changes nothing, its share of the loss is near 0 and its exponent is anything,
  # so what is judged is the whole fall of the loss, beside the scatter of one run about the law.
  scatter = float(np.sqrt(np.mean(np.square(losses - law(variables)))))
  for number, (name, column) in enumerate(zip(names, np.asarray(variables).T, strict=True)):
    between = fitted.interval(_fall(number, column))
    if between and between[0] <= scatter and between[1] >= -scatter:
      told.append(f"{GREEK[number]} may be 0: the loss cannot be told to change with {name}")
    elif (between and between[1] < 0) or (not between and law.exponents[number] <= 0):
      told.append(f"{GREEK[number]} is below 0: the loss rises with {name}")
  if law.has_floor and (between := fitted.interval(lambda law: law.floor)):
    lowest = float(np.min(losses))
    if between[0] < 0.01 * lowest:
      told.append("E may be 0: the runs are too far from a floor to tell it")
    if between[1] > 0.99 * lowest:
      told.append("E may be the lowest loss: the runs cannot tell how far below them a floor is")
  return tuple(told)
