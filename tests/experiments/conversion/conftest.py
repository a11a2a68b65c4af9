"""The recorded models of both packages, here too."""

import pytest

from experiments.conversion import surgery
from mobile_jax.weights import load
from mobile_jax.weights.load import write_model
from tests.dasheng_jax.conftest import tiny as tiny
from tests.dasheng_jax.conftest import tiny_state as tiny_state
from tests.mobile_jax.conftest import recorded as recorded
from tests.mobile_jax.conftest import variables_of as variables_of
from tests.mobile_jax.fixtures import drawn, shapes_of, traced_once


@pytest.fixture(scope="module", autouse=True)
def _traced_once():
  """A conversion traces its network twice, and these are hundreds."""
  with traced_once(load, surgery):
    yield


@pytest.fixture
def drawn_model(tmp_path):
  """drawn_model(configuration) -> (file, variables) of a network with random weights."""

  def write(cfg, name="drawn.safetensors"):
    variables = drawn(shapes_of(cfg))
    write_model(tmp_path / name, cfg, variables)
    return tmp_path / name, variables

  return write
