"""Same weights, same clips, same masks: the recorded losses of the PyTorch original are met."""

import pathlib

import numpy as np
import pytest

from experiments.retrace_curve import RetraceConfig, main, retrace
from experiments.training.errors import UsageError


@pytest.mark.slow
def test_first_fifty_losses_of_the_original_are_met(dasheng_fixtures):
  result = retrace(dasheng_fixtures / "curve", 50, "torch_cpu")
  assert result.worst() <= 1e-4


@pytest.mark.slow
def test_the_defect_of_the_recording_is_what_sets_the_exact_gradient_apart(dasheng_fixtures):
  result = retrace(dasheng_fixtures / "curve", 24, "exact")
  assert result.worst(3) <= 1e-5  # the first update has rate 0, the second hardly any
  assert result.worst(24) > 1e-4


@pytest.mark.slow
def test_differences_are_relative_and_end_where_asked(dasheng_fixtures):
  result = retrace(dasheng_fixtures / "curve", 2, "torch_cpu")
  assert result.ours.shape == result.recorded.shape == (2,)
  np.testing.assert_allclose(result.ours, result.recorded, rtol=1e-6)


def test_a_missing_recording_is_one_line(tmp_path):
  with pytest.raises(UsageError, match="--fixtures .* holds no curve.npz"):
    main(RetraceConfig(fixtures=str(pathlib.Path(tmp_path) / "none")))
