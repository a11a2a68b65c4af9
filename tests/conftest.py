"""What every test shares: eight simulated devices, no silent rank promotion, the sample data."""

import pathlib

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of fixtures and recordings beside the repository; without it the test skips."""
  if not SHARED.is_dir():
    pytest.skip(f"needs the sample data in {SHARED.name}/ beside the repository")
  return SHARED
