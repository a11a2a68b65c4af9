"""Data parallelism over slices: which devices stand where in the mesh."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.training.errors import UsageError
from experiments.training.mesh import MeshConfig, batch_hosts, imagined_mesh, make_mesh


@dataclasses.dataclass(frozen=True)
class Described:
  """A device as a TPU describes itself, enough to be put into a mesh."""

  id: int
  slice_index: int
  process_index: int = 0
  platform: str = "gpu"
  device_kind: str = "described"


def described(slices):
  return [Described(i, s) for i, s in enumerate(slices)]


def slices_of(mesh):
  return np.vectorize(lambda d: d.slice_index)(mesh.devices)


def test_data_counts_slices_first_and_the_rest_stays_inside():
  mixed = described([1, 0, 0, 1, 1, 0, 0, 1])
  found = slices_of(make_mesh(MeshConfig(data=4, fsdp=2, slices=2), mixed))
  assert found.tolist() == [[[0], [0]], [[0], [0]], [[1], [1]], [[1], [1]]]
  found = slices_of(make_mesh(MeshConfig(data=2, tensor=4, slices=2), mixed))
  assert found.tolist() == [[[0] * 4], [[1] * 4]]


def test_devices_that_know_no_slices_are_taken_in_order():
  mesh = make_mesh(MeshConfig(data=2, fsdp=4, slices=2))
  assert [[d.id for d in row] for row in mesh.devices[:, :, 0]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
  assert batch_hosts(mesh) == (0, 1)


def test_one_slice_is_the_mesh_of_before():
  assert (
    make_mesh(MeshConfig(2, 4)).devices == make_mesh(MeshConfig(2, 4, slices=1)).devices
  ).all()


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"slices": 0}, "mesh.slices=0: there is 1 slice or more"),
    ({"data": 1, "fsdp": 8, "slices": 2}, "--mesh.data 1 does not split over --mesh.slices 2"),
    ({"fsdp": 8, "slices": 2}, "--mesh.data 1 does not split over --mesh.slices 2"),
  ],
)
def test_slices_that_do_not_divide_the_data_are_refused(fields, message):
  with pytest.raises(UsageError, match=message):
    make_mesh(MeshConfig(**fields))


@pytest.mark.parametrize(
  ("slices", "message"),
  [
    ([0, 0, 0, 1], r"the devices form 2 slice\(s\) of 3, 1 device"),
    ([0, 1, 2, 3], r"the devices form 4 slice\(s\) of 1, 1, 1, 1 device"),
  ],
)
def test_other_slices_than_the_devices_have_are_refused(slices, message):
  with pytest.raises(UsageError, match=message):
    make_mesh(MeshConfig(slices=2), described(slices))


def test_a_tpu_slice_is_not_cut_in_two():
  whole = [dataclasses.replace(d, platform="tpu") for d in described([0, 0])]
  with pytest.raises(UsageError, match=r"the devices form 1 slice\(s\) of 2 device"):
    make_mesh(MeshConfig(slices=2), whole)


def test_slices_can_be_imagined_on_any_machine():
  assert tuple(imagined_mesh(MeshConfig(slices=2), 1).shape.values()) == (2, 1, 1)
  assert tuple(imagined_mesh(MeshConfig(fsdp=4, slices=2), 8).shape.values()) == (2, 4, 1)
  assert jax.device_count() == 8
