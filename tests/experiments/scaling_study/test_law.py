"""The law: its parameters come back from losses that follow it, and a stray run moves it little."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from experiments.scaling_study import law as laws
from experiments.scaling_study.law import Law, at_bound, fit_law
from tests.experiments.scaling_study.runs import LAW, grid, losses

ONE = Law(0.2, (0.1,), (0.5,), (1e6,), True)
POWER = Law(0.0, (0.5,), (0.12,), (1e6,), False)
SIZES = np.geomspace(1e5, 1e8, 6)[:, None]


def numbers(law):
  return (law.floor, *law.exponents, *law.factors)


# A and B are the shares at the centre taken to 1 parameter, or 1 hour: their errors grow with it.
@pytest.mark.parametrize(
  ("truth", "variables"),
  [(LAW, grid()), (ONE, SIZES), (POWER, SIZES[:3])],
  ids=("two", "one", "E=0"),
)
def test_exact_losses_give_the_law_back(truth, variables):
  found = fit_law(variables, truth(variables), floor=truth.has_floor)
  np.testing.assert_allclose(numbers(found), numbers(truth), rtol=1e-4)
  np.testing.assert_allclose(found(variables), truth(variables), rtol=1e-7)
  assert not at_bound(found, truth(variables))


def test_units_do_not_matter():
  variables = grid()
  small = fit_law(variables * [1e-6, 3600.0], losses(variables, 0.003))
  large = fit_law(variables, losses(variables, 0.003))
  np.testing.assert_allclose(small.exponents, large.exponents, rtol=1e-5)
  np.testing.assert_allclose(small.floor, large.floor, rtol=1e-5)


def test_a_stray_run_moves_least_squares_and_hardly_the_law():
  variables = grid(seeds=2)
  values = losses(variables, 1e-4)
  values[4] *= 1.2
  robust, squares = fit_law(variables, values), fit_law(variables, values, delta=10.0)
  off = [abs(law.exponents[0] - LAW.exponents[0]) for law in (robust, squares)]
  assert off[0] < 0.02 < off[1]


@pytest.mark.parametrize("floor", [True, False])
def test_the_gradient_is_that_of_the_objective(floor):
  variables = grid()
  logs, target = np.log(variables / [1e6, 0.25]), np.log(losses(variables, 0.1))
  theta = np.array([-1.5, -3.0, 0.4, -2.0, 0.3])[0 if floor else 1 :]
  for delta in (1e-3, 0.05, 1.0):
    args = (logs, target, floor, delta)
    gradient = laws._objective(theta, *args)[1]
    error = check_grad(
      lambda x, *a: laws._objective(x, *a)[0], lambda x, *a: laws._objective(x, *a)[1], theta, *args
    )
    assert error < 1e-4 * np.linalg.norm(gradient)


def test_losses_that_rise_with_size_have_an_exponent_below_0():
  found = fit_law(SIZES, 0.3 + 0.1 * (SIZES[:, 0] / 1e6) ** 0.2)
  assert found.exponents[0] < 0


def test_what_is_undecided_is_at_its_bound():
  variables = np.array([[1.0], [1.2], [1.5], [2.0], [3.0]])
  steep = 0.5 + 0.3 * variables[:, 0] ** -6
  assert at_bound(fit_law(variables, steep), steep) == ("alpha",)
  floorless = POWER(SIZES)
  assert at_bound(fit_law(SIZES, floorless), floorless) == ("E",)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_what_has_no_logarithm_is_refused(bad):
  values = losses(grid())
  values[3] = bad
  with pytest.raises(ValueError, match="losses must all be positive and finite"):
    fit_law(grid(), values)
