"""Which devices hold what: the mesh of a plan, the default one, and its neighbours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from experiments.planning.topology import Topology
from experiments.training.errors import UsageError
from experiments.training.mesh import AXES, MeshConfig

# Past this, shards of a width of 1536 are under 96 rows, thinner than what the compiler's tiles
# and gathers are made for, and hardly any memory is left to be saved (docs/scaling.md).
WIDEST_FSDP = 16


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a plan may change about a run without changing what it computes, but for the batch."""

  mesh: MeshConfig
  batch: int
  remat: str
  accumulate: int

  def __str__(self) -> str:
    parts = [f"{axis}={getattr(self.mesh, axis)}" for axis in AXES]
    many = f" slices={self.mesh.slices}" if self.mesh.slices > 1 else ""
    return (
      f"mesh {','.join(parts)}{many}, {self.batch:,} clips per step, remat {self.remat}, "
      f"accumulate {self.accumulate}"
    )

  def flags(self) -> str:
    """The same for `experiments.pretrain`."""
    sizes = " ".join(f"--mesh.{axis} {getattr(self.mesh, axis)}" for axis in AXES)
    many = f" --mesh.slices {self.mesh.slices}" if self.mesh.slices > 1 else ""
    accumulate = f" --optim.accumulate {self.accumulate}" if self.accumulate > 1 else ""
    return (
      f"{sizes}{many} --loop.batch_size {self.batch} --model.compute.remat {self.remat}{accumulate}"
    )


def parse_mesh(text: str, topology: Topology) -> MeshConfig:
  """The mesh of `data=16,fsdp=16,tensor=1`; "" is the default.

  Axes left out are 1, one -1 takes the rest. Slices are those of the topology.
  """
  if not text.strip():
    return default_mesh(topology)
  sizes: dict[str, int] = {}
  for part in re.split(r"[,\s]+", text.strip()):
    found = re.fullmatch(r"(\w+)=(-?\d+)", part)
    if not found or found[1] not in AXES or found[1] in sizes:
      raise UsageError(
        f"--mesh {text}: {part!r} is not AXIS=SIZE; write e.g. data=16,fsdp=16,tensor=1"
      )
    sizes[found[1]] = int(found[2])
  asked = MeshConfig(**{"data": 1, **sizes}, slices=topology.slices)
  try:
    return MeshConfig(*asked.sizes(topology.count), slices=topology.slices)
  except UsageError as error:
    raise UsageError(f"--mesh {text} on {topology} ({topology.count} devices): {error}") from None


def default_mesh(topology: Topology) -> MeshConfig:
  """The axis fsdp over 16 devices of a slice at most, as many as divide it; data over the rest."""
  ways = max(n for n in range(1, WIDEST_FSDP + 1) if topology.per_slice % n == 0)
  return MeshConfig(topology.count // ways, ways, 1, slices=topology.slices)


def shards(mesh: MeshConfig) -> int:
  """Over how many devices the rows of a batch are split."""
  return mesh.data * mesh.fsdp


def neighbours(layout: Layout, topology: Topology, heads: tuple[int, ...]) -> Iterator[Layout]:
  """Layouts that need less memory, those that cost least time first.

  More ways of fsdp, then recomputation, then microbatches, then tensor parallelism, each with all
  before it, and at last a smaller batch.
  """
  meshes = [m for m in _meshes(topology, (1,)) if m.fsdp >= layout.mesh.fsdp]
  tensors = tuple(t for t in (2, 4, 8) if all(h % t == 0 for h in heads))
  policies = {"none": ("none", "dots", "block"), "dots": ("dots", "block")}
  remats = policies.get(layout.remat, (layout.remat,))
  same = dataclasses.replace
  for mesh in meshes:
    if mesh.tensor == layout.mesh.tensor:
      yield same(layout, mesh=mesh)
  for remat in remats:
    for mesh in meshes:
      yield same(layout, mesh=mesh, remat=remat)
  for times in (2, 4, 8, 16, 32):
    for mesh in meshes:
      if layout.batch % (shards(mesh) * layout.accumulate * times) == 0:
        yield same(layout, mesh=mesh, remat=remats[-1], accumulate=layout.accumulate * times)
  for mesh in _meshes(topology, tensors):
    for times in (1, 2, 4, 8, 16, 32):
      yield same(layout, mesh=mesh, remat=remats[-1], accumulate=layout.accumulate * times)
  batch = layout.batch
  while batch % 2 == 0:
    batch //= 2
    for mesh in meshes:
      yield same(layout, mesh=mesh, remat=remats[-1], batch=batch)


def _meshes(topology: Topology, tensors: tuple[int, ...]) -> list[MeshConfig]:
  found = []
  for tensor in tensors:
    for fsdp in range(1, topology.per_slice + 1):
      if topology.per_slice % (fsdp * tensor) == 0:
        data = topology.count // (fsdp * tensor)
        found.append(MeshConfig(data, fsdp, tensor, slices=topology.slices))
  return found


def splits(layout: Layout) -> bool:
  """Whether the batch divides over devices and microbatches."""
  parts = shards(layout.mesh) * layout.accumulate
  return layout.batch >= parts and layout.batch % parts == 0
