"""The device mesh, and one table from parameter paths to it.

A model names logical axes by path; `LOGICAL` names mesh axes for them. There is no more to it:

  (r"mlp/up/kernel$", ("embed", "mlp"))  ->  PartitionSpec(None, "fsdp", "tensor") on [l, d, m]
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.training.errors import UsageError
from experiments.training.paths import leaves_by_path, look_up, map_by_path
from experiments.training.task import LogicalAxes, Tree

AXES = ("data", "fsdp", "tensor")
AnyMesh: TypeAlias = Mesh | AbstractMesh

# Logical axis -> mesh axes. `fsdp` splits the batch and the parameters: a device has its own rows
# and keeps its own slice of the weights. `tensor` splits heads and hidden units in one row.
LOGICAL: dict[str, str | tuple[str, ...]] = {
  "batch": ("data", "fsdp"),
  "embed": "fsdp",
  "heads": "tensor",
  "mlp": "tensor",
}


@dataclass(frozen=True)
class MeshConfig:
  """Devices along each axis; -1 (one axis at most) takes what the others leave.

  Slices are groups of devices with a fast network of their own (TPU slices, GPU nodes). The `data`
  axis goes over them, slice by slice, so that only the sum of the gradients crosses from one to
  another; `fsdp` and `tensor` stay within a slice.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1
  slices: int = 1  # groups of devices that `data` is split over first; divides data

  def __post_init__(self):
    if self.slices < 1:
      raise UsageError(f"mesh.slices={self.slices}: there is 1 slice or more")
    sizes = {axis: getattr(self, axis) for axis in AXES}
    wrong = [f"mesh.{axis}={n}" for axis, n in sizes.items() if n < 1 and n != -1]
    if wrong:
      raise UsageError(f"{', '.join(wrong)}: an axis has 1 or more devices, or -1 for the rest")
    if list(sizes.values()).count(-1) > 1:
      raise UsageError(f"mesh {_product(sizes)}: only one axis can be -1, give the others a size")

  def sizes(self, devices: int) -> tuple[int, int, int]:
    """The three sizes for a number of devices, -1 resolved."""
    sizes = {axis: getattr(self, axis) for axis in AXES}
    fixed = math.prod(n for n in sizes.values() if n != -1)
    free = [axis for axis, n in sizes.items() if n == -1]
    if devices % fixed or (not free and fixed != devices):
      way = (
        f"set one axis to -1, or make the product {devices}"
        if not free
        else f"give the others sizes whose product divides {devices}"
      )
      flags = " ".join(f"--mesh.{axis} {n}" for axis, n in sizes.items())
      raise UsageError(
        f"{flags} does not fit {devices} device(s); {way}, or look at it with --dry_run"
      )
    sizes.update(dict.fromkeys(free, devices // fixed))
    if sizes["data"] % self.slices:
      raise UsageError(
        f"--mesh.data {sizes['data']} does not split over --mesh.slices {self.slices}; make it a "
        "multiple, with smaller fsdp or tensor: these two stay within a slice"
      )
    return sizes["data"], sizes["fsdp"], sizes["tensor"]


def _product(sizes: dict[str, int]) -> str:
  return " x ".join(f"{axis}={n}" for axis, n in sizes.items())


def make_mesh(cfg: MeshConfig | None = None, devices: Sequence[Any] | None = None) -> Mesh:
  """Mesh (data, fsdp, tensor) over all devices of all processes, or those given.

  With several slices, the first index of `data` counts slices: all devices of the first come first.
  """
  devices = list(jax.devices() if devices is None else devices)
  cfg = cfg or MeshConfig()
  sizes = cfg.sizes(len(devices))
  types = (AxisType.Auto,) * len(AXES)
  if cfg.slices == 1:
    return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)
  inside = (sizes[0] // cfg.slices, *sizes[1:])
  blocks = [mesh_utils.create_device_mesh(inside, part) for part in _slices(cfg.slices, devices)]
  return Mesh(np.concatenate(blocks), AXES, axis_types=types)


def _slices(count: int, devices: list[Any]) -> list[list[Any]]:
  """The devices of each slice: as they say themselves, or else equal runs of processes."""
  groups: dict[int, list[Any]] = {}
  for device in devices:
    groups.setdefault(getattr(device, "slice_index", None) or 0, []).append(device)
  if len(groups) == 1 and devices[0].platform != "tpu":
    # Devices that know of no slices: neighbours in the order of processes.
    ordered = sorted(devices, key=lambda d: (d.process_index, d.id))
    each = len(devices) // count
    groups = {i: ordered[i * each : (i + 1) * each] for i in range(count)}
  if len(groups) != count or len({len(g) for g in groups.values()}) != 1:
    found = ", ".join(str(len(groups[i])) for i in sorted(groups))
    raise UsageError(
      f"--mesh.slices {count}: the devices form {len(groups)} slice(s) of {found} device(s)"
    )
  return [groups[i] for i in sorted(groups)]


def imagined_mesh(cfg: MeshConfig, devices: int) -> AbstractMesh:
  """The mesh without its devices, to look at shardings on any machine.

  As many devices as there are, or, where that does not fit, as few as the sizes allow.
  """
  fixed = math.prod(n for n in (cfg.data, cfg.fsdp, cfg.tensor) if n != -1)
  fixed *= cfg.slices if cfg.data == -1 else 1
  free = -1 in (cfg.data, cfg.fsdp, cfg.tensor)
  count = devices if free and devices % fixed == 0 else fixed
  return AbstractMesh(cfg.sizes(count), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
  """Rows over data and fsdp, everything else whole. Serves a whole batch as a tree prefix."""
  return NamedSharding(mesh, PartitionSpec(LOGICAL["batch"]))


def check_batch(batch_size: int, mesh: AnyMesh, accumulate: int = 1) -> None:
  """Refuses a global batch that does not split evenly over the devices (and microbatches)."""
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  parts = shards * accumulate
  if batch_size > 0 and batch_size % parts == 0:
    return
  below = batch_size // parts * parts
  tries = f"{below} or {below + parts}" if below > 0 else f"{parts}"
  unit = "devices" if mesh.shape["tensor"] == 1 else "data shards"
  text = f"{shards} {unit}" if accumulate == 1 else f"{shards} {unit} x {accumulate} microbatches"
  raise UsageError(f"--loop.batch_size {batch_size} is not divisible by {text}; try {tries}")


def batch_hosts(mesh: Mesh) -> tuple[int, int]:
  """(host index, host count) for the pipeline: which share of the rows this process must supply.

  Processes that differ only along `tensor` hold the same rows and so get the same index.
  """
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  where = batch_sharding(mesh).addressable_devices_indices_map((shards,))
  rows = sorted({(index[0].start or 0) if index else 0 for index in where.values()})
  if shards % len(rows) or rows[0] % len(rows) or rows != list(range(rows[0], rows[-1] + 1)):
    raise UsageError(
      f"process {jax.process_index()} holds rows {rows} of {shards}, not one run of them; "
      "order the devices by process or set mesh.tensor to divide the devices of a process"
    )
  return rows[0] // len(rows), shards // len(rows)


@dataclass(frozen=True)
class Placement:
  """Where one array goes: a row of the printed table."""

  shape: tuple[int, ...]
  dtype: str
  spec: PartitionSpec
  bytes_per_device: int
  note: str = ""


def place(leaf: Any, axes: LogicalAxes, mesh: AnyMesh, path: str = "") -> Placement:
  """Applies logical axes to an array, left-padded with None for a scanned layer axis.

  A dimension that its mesh axes do not divide stays whole, and the note says so.
  """
  shape = tuple(leaf.shape)
  if len(axes) > len(shape):
    raise UsageError(f"{path}: rule {axes} names {len(axes)} axes, the array has shape {shape}")
  names = (None,) * (len(shape) - len(axes)) + tuple(axes)
  unknown = [name for name in names if name is not None and name not in LOGICAL]
  if unknown:
    raise UsageError(f"{path}: unknown logical axis {unknown[0]!r}; known are {', '.join(LOGICAL)}")
  entries: list[Any] = []
  notes = []
  for size, name in zip(shape, names, strict=True):
    entry = LOGICAL[name] if name else None
    parts = math.prod(mesh.shape[a] for a in _tuple(entry))
    if size % parts:
      notes.append(f"{name} whole: {size} is not divisible by {parts}")
      entry = None
    entries.append(entry)
  while entries and entries[-1] is None:
    entries.pop()
  spread = math.prod(mesh.shape[a] for entry in entries for a in _tuple(entry))
  size_bytes = math.prod(shape) * np.dtype(leaf.dtype).itemsize
  return Placement(
    shape, str(leaf.dtype), PartitionSpec(*entries), size_bytes // spread, "; ".join(notes)
  )


def _tuple(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
  return () if entry is None else (entry,) if isinstance(entry, str) else entry


def placements(tree: Tree, param_axes: Sequence[tuple[str, LogicalAxes]], mesh: AnyMesh) -> Tree:
  """The placement of every array of a parameter tree (of arrays or ShapeDtypeStructs).

  Raises:
    UsageError: naming every path without a rule; a new parameter is never replicated in silence.
  """
  rules = look_up(param_axes, list(leaves_by_path(tree)), "the parameter axes table")
  return map_by_path(lambda path, leaf: place(leaf, rules[path], mesh, path), tree)


def format_table(table: Tree) -> str:
  """Placements as text: path, shape, type, spec, MB (1e6 bytes) per device, and the totals."""
  rows = leaves_by_path(table)
  cells = [
    (path, str(p.shape), p.dtype, _show(p.spec), f"{p.bytes_per_device / 1e6:.3f}", p.note)
    for path, p in rows.items()
  ]
  cells.insert(0, ("path", "shape", "dtype", "spec", "MB/device", "note"))
  widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
  lines = [
    "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
  ]
  count = sum(math.prod(p.shape) for p in rows.values())
  total = sum(p.bytes_per_device for p in rows.values()) / 1e6
  return "\n".join(
    [*lines, f"{len(rows)} arrays, {count:,} values, {total:,.1f} MB on each device"]
  )


def _show(spec: PartitionSpec) -> str:
  parts = ["+".join(_tuple(e)) if e is not None else "-" for e in spec]
  return ", ".join(parts) if parts else "replicated"


def on_host(tree: Any) -> Any:
  """Numpy copies of arrays that may be spread over devices and hosts."""
  if jax.process_count() > 1:
    return multihost_utils.process_allgather(tree, tiled=True)
  return jax.device_get(tree)
