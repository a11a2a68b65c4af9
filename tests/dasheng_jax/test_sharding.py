"""What models ask of a mesh without knowing one."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dasheng_jax.sharding import each_row_at_home
from pipelines.mel import DASHENG_MEL, mel_power

FRONT_END = functools.partial(each_row_at_home, functools.partial(mel_power, cfg=DASHENG_MEL))


@pytest.fixture(scope="module")
def mesh():
  return jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize("rows", [8, 6])  # six rows do not split over four devices
def test_rows_at_home_are_the_same_rows(rows, mesh):
  wave = np.random.default_rng(0).standard_normal((rows, 1_600)).astype(np.float32)
  plain = jax.jit(FRONT_END)(wave)
  with jax.set_mesh(mesh):
    apart = jax.jit(FRONT_END)(wave)
  np.testing.assert_allclose(apart, plain, rtol=1e-5)


def test_no_row_leaves_home(mesh):
  """Left alone, XLA gathers the frames of the whole batch before an FFT, which it cannot split."""
  rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  wave = jax.ShapeDtypeStruct((8, 1_600), np.float32, sharding=rows)
  with jax.set_mesh(mesh):
    assert "all-gather" not in jax.jit(FRONT_END).lower(wave).compile().as_text()
