import pytest

from experiments.planning.layouts import Layout, default_mesh, neighbours, parse_mesh, splits
from experiments.planning.topology import parse_topology
from experiments.training.errors import UsageError
from experiments.training.mesh import MeshConfig

POD = parse_topology("v5e:16x16")


@pytest.mark.parametrize(
  ("text", "topology", "sizes", "slices"),
  [
    ("data=16,fsdp=16", "v5e:16x16", (16, 16, 1), 1),
    ("fsdp=-1, tensor=8", "v5e:16x16", (1, 32, 8), 1),
    ("data=2,fsdp=8", "h100:8*2", (2, 8, 1), 2),
    # fsdp stays within 16 devices and within a slice, data takes the rest.
    ("", "v5e:16x16", (16, 16, 1), 1),
    ("", "v5e:2x4", (1, 8, 1), 1),
    ("", "h100:8*4", (4, 8, 1), 4),
    ("", "v5p:4x4x8*2", (16, 16, 1), 2),
  ],
)
def test_meshes(text, topology, sizes, slices):
  mesh = parse_mesh(text, parse_topology(topology))
  assert (mesh.data, mesh.fsdp, mesh.tensor) == sizes
  assert mesh.slices == slices


@pytest.mark.parametrize(
  ("text", "topology", "message"),
  [
    ("data:16", "v5e:16x16", r"'data:16' is not AXIS=SIZE; write e.g. data=16,fsdp=16"),
    ("rows=16", "v5e:16x16", "'rows=16' is not AXIS=SIZE"),
    ("data=2,data=4", "v5e:16x16", "'data=4' is not AXIS=SIZE"),
    ("data=3", "v5e:16x16", r"on v5e:16x16 \(256 devices\): .*does not fit 256"),
    ("fsdp=16", "h100:8*2", "does not split over --mesh.slices 2"),
  ],
)
def test_meshes_that_are_none(text, topology, message):
  with pytest.raises(UsageError, match=message):
    parse_mesh(text, parse_topology(topology))


def test_a_layout_says_how_to_train_with_it():
  layout = Layout(MeshConfig(4, 8, 1, slices=4), 256, "dots", 2)
  assert layout.flags() == (
    "--mesh.data 4 --mesh.fsdp 8 --mesh.tensor 1 --mesh.slices 4 --loop.batch_size 256 "
    "--model.compute.remat dots --optim.accumulate 2"
  )


def test_batches_split_over_rows_and_microbatches():
  mesh = MeshConfig(4, 8, 1)
  assert splits(Layout(mesh, 64, "none", 2))
  assert not splits(Layout(mesh, 64, "none", 4))
  assert not splits(Layout(mesh, 33, "none", 1))


def test_neighbours_give_up_speed_before_they_give_up_the_batch():
  start = Layout(default_mesh(POD), 1024, "none", 1)
  found = list(neighbours(start, POD, (24, 24)))
  first = {
    "fsdp": next(i for i, x in enumerate(found) if x.mesh.fsdp > 16),
    "remat": next(i for i, x in enumerate(found) if x.remat == "dots"),
    "accumulate": next(i for i, x in enumerate(found) if x.accumulate > 1),
    "tensor": next(i for i, x in enumerate(found) if x.mesh.tensor > 1),
    "batch": next(i for i, x in enumerate(found) if x.batch < 1024),
  }
  assert list(first) == sorted(first, key=first.get)
  assert all(x.mesh.data * x.mesh.fsdp * x.mesh.tensor == POD.count for x in found)
  assert {x.mesh.tensor for x in found} == {1, 2, 4, 8}
