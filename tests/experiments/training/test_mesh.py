import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from experiments.training import mesh as mesh_lib
from experiments.training.errors import UsageError
from experiments.training.mesh import MeshConfig, imagined_mesh, make_mesh, placements


def shapes(**kinds):
  return {k.replace("__", "/"): jax.ShapeDtypeStruct(s, jnp.float32) for k, s in kinds.items()}


def test_sizes_fill_the_rest():
  assert MeshConfig().sizes(8) == (8, 1, 1)
  assert MeshConfig(data=2, fsdp=-1, tensor=2).sizes(8) == (2, 2, 2)
  assert MeshConfig(data=1).sizes(1) == (1, 1, 1)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"data": 3}, "--mesh.data 3 --mesh.fsdp 1 .* does not fit 8 dev.*make the product 8"),
    ({"fsdp": 3}, "--mesh.fsdp 3 --mesh.tensor 1 does not fit 8 devices?.*divides 8"),
    ({"fsdp": -1}, "only one axis can be -1"),
    ({"tensor": 0}, "mesh.tensor=0"),
    ({"data": -2}, "mesh.data=-2"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
  with pytest.raises(UsageError, match=message):
    MeshConfig(**fields).sizes(8)


@pytest.mark.parametrize(
  ("fields", "sizes"),
  [
    ({}, (8, 1, 1)),
    ({"fsdp": 2}, (4, 2, 1)),
    ({"fsdp": 512}, (1, 512, 1)),
    ({"data": 32, "fsdp": 8, "tensor": 2}, (32, 8, 2)),
  ],
)
def test_any_mesh_can_be_imagined(fields, sizes):
  assert tuple(imagined_mesh(MeshConfig(**fields), 8).shape.values()) == sizes


def test_mesh_leaves_placement_to_the_compiler():
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
  assert set(mesh.axis_types) == {AxisType.Auto}
  assert make_mesh(MeshConfig(), jax.devices()[:1]).size == 1


@pytest.mark.parametrize(
  ("batch", "accumulate", "message"),
  [
    (250, 1, "--loop.batch_size 250 is not divisible by 8 devices; try 248 or 256"),
    (5, 1, "batch_size 5 is not divisible by 8 devices; try 8"),
    (24, 2, "batch_size 24 is not divisible by 8 devices x 2 microbatches; try 16 or 32"),
    (0, 1, "try 8"),
  ],
)
def test_batch_that_does_not_split_is_refused(batch, accumulate, message):
  with pytest.raises(UsageError, match=message):
    mesh_lib.check_batch(batch, make_mesh(), accumulate)


def test_batch_counts_data_and_fsdp_but_not_tensor():
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  mesh_lib.check_batch(12, mesh)
  with pytest.raises(UsageError, match="10 is not divisible by 4 data shards; try 8 or 12"):
    mesh_lib.check_batch(10, mesh)


def test_one_process_supplies_all_rows():
  assert mesh_lib.batch_hosts(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))) == (0, 1)


def test_rules_pad_on_the_left_and_the_first_match_wins():
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  table = ((r"up/kernel$", ("embed", "mlp")), (r"kernel$", ("mlp",)), (r"bias$", ()))
  tree = {
    "blocks": {"up": {"kernel": jax.ShapeDtypeStruct((40, 4, 8), jnp.float32)}},
    "head": {"kernel": jax.ShapeDtypeStruct((3, 8), jnp.float32)},
    "bias": jax.ShapeDtypeStruct((8,), jnp.float32),
  }
  assert jax.tree.map(lambda p: p.spec, placements(tree, table, mesh)) == {
    "blocks": {"up": {"kernel": PartitionSpec(None, "fsdp", "tensor")}},
    "head": {"kernel": PartitionSpec(None, "tensor")},
    "bias": PartitionSpec(),
  }


def test_every_path_without_a_rule_is_named():
  with pytest.raises(UsageError, match="a/odd, b/odder"):
    placements(shapes(a__odd=(2,), b__odder=(2,), c__bias=(2,)), ((r"bias$", ()),), make_mesh())


def test_bad_rules_are_named():
  with pytest.raises(UsageError, match=r"w: rule .* names 2 axes, the array has shape \(8,\)"):
    placements(shapes(w=(8,)), ((r"w$", ("embed", "mlp")),), make_mesh())
  with pytest.raises(UsageError, match="w: unknown logical axis 'width'; known are batch, embed"):
    placements(shapes(w=(8,)), ((r"w$", ("width",)),), make_mesh())


def test_a_dimension_that_does_not_divide_stays_whole_and_the_table_says_so():
  mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
  table = placements(shapes(w=(6, 1000)), ((r"w$", ("embed", "mlp")),), mesh)
  assert table["w"].spec == PartitionSpec(None, "tensor")
  assert table["w"].bytes_per_device == 6 * 1000 * 4 // 2
  text = mesh_lib.format_table(table)
  assert "embed whole: 6 is not divisible by 4" in text
  assert "-, tensor" in text
  assert "0.012" in text
  assert "1 arrays, 6,000 values, 0.0 MB on each device" in text


def test_bytes_per_device_are_what_a_device_holds():
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  table = placements(shapes(w=(8, 12)), ((r"w$", ("embed", "mlp")),), mesh)
  sharding = jax.sharding.NamedSharding(mesh, table["w"].spec)
  array = jax.device_put(np.zeros((8, 12), np.float32), sharding)
  assert {s.data.nbytes for s in array.addressable_shards} == {table["w"].bytes_per_device}
