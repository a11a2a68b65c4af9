"""How the model wants to be laid out over devices: parameter path -> logical axes.

The run that trains it maps logical axes to mesh axes ("embed" to the fsdp axis, "heads" and "mlp"
to the tensor axis); see `experiments.training.mesh`. Model code knows of meshes only through
`constrain_batch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

# Mesh axes over which a batch is split. The one place where model code names them.
BATCH_AXES = ("data", "fsdp")

# First match wins, matched against the end of the "/"-joined path; a path without a match is an
# error. A stack of scanned layers has one axis more in front, which stays whole.
PARAM_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r"attn/qkv_kernel$", ("embed", None, "heads", None)),
  (r"attn/qkv_bias$", (None, "heads", None)),
  (r"attn/out_kernel$", ("heads", None, "embed")),
  (r"mlp/up/kernel$", ("embed", "mlp")),
  (r"mlp/up/bias$", ("mlp",)),
  (r"mlp/down/kernel$", ("mlp", "embed")),
  (r"patch_embed/kernel$", (None, "embed")),
  (r"input_proj/kernel$", ("embed", None)),
  (r"output/kernel$", ("embed", None)),
  (r"(positions/time|pos_embed)$", (None, "embed")),
  # Vectors: too small to be worth a gather.
  (r"(out_bias|bias|scale|freq|mask_token)$", ()),
  # Batch statistics.
  (r"init_bn/(mean|var|count)$", ()),
)


def constrain_batch(x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
  """Pin activations to batch sharding, so that the compiler never replicates them.

  Does nothing outside a mesh, or where the batch does not divide over it (a small evaluation
  batch).
  """
  axes = _axes_of(x.shape[0])
  return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x


def each_row_at_home(
  function: Callable[[jax.Array], jax.Array], x: Float[Array, "b ..."]
) -> Float[Array, "b ..."]:
  """`function(x)`, every device working on its own rows alone.

  For functions of one row after the other with operations that the partitioner cannot split, such
  as an FFT: it would gather the whole batch on every device first. The same as `function(x)`
  outside a mesh, or where the batch does not divide over it.
  """
  axes = _axes_of(x.shape[0])
  if not axes:
    return function(x)
  rows = PartitionSpec(axes)
  return jax.shard_map(function, in_specs=rows, out_specs=rows, axis_names=set(axes))(x)


def _axes_of(rows: int) -> tuple[str, ...]:
  """The mesh axes that split a batch of so many rows; () where it stays whole."""
  mesh = jax.sharding.get_abstract_mesh()
  axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
  parts = math.prod(mesh.shape[axis] for axis in axes)
  return () if parts == 1 or rows % parts else axes
