"""The native kernels, or a visible skip where no compiler can make them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax import native


class Kernels:
  """The package's functions, taking the NumPy arrays of the tests."""

  def __getattr__(self, name):
    def call(*args, **kwargs):
      args, kwargs = jax.tree.map(
        lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a, (args, kwargs)
      )
      return getattr(native, name)(*args, **kwargs)

    return call


@pytest.fixture(scope="session")
def kernels() -> Kernels:
  if not native.available():
    pytest.skip("needs the native kernels: a CPU backend and a C++17 compiler")
  return Kernels()


@pytest.fixture
def draw():
  rng = np.random.default_rng(3)
  return lambda *shape: rng.normal(size=shape).astype(np.float32)
