"""What is asked of state dicts."""

import numpy as np
import pytest

# Kinds of weight files: a pickle takes PyTorch to read.
SUFFIXES = (".safetensors", pytest.param(".pt", marks=pytest.mark.torch))


def assert_same(one, other):
  """The same names, types, shapes and bits."""
  assert set(one) == set(other)
  for name, value in one.items():
    twin = np.asarray(other[name])
    assert (twin.dtype, twin.shape) == (value.dtype, value.shape), name
    np.testing.assert_array_equal(value, twin, err_msg=name)
