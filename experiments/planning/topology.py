"""`v5e:16x16`, `v5p:4x4x8*2`, `h100:8`: which devices a run is planned for.

    CHIP:SHAPE[*SLICES]     SHAPE is that of one slice (TPU) or the GPUs of one node

Slices (or nodes) are joined by the slower network of the data centre. TPU devices come from the
compiler's own description of the topology, in the package libtpu, and need no TPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from experiments.planning.chips import CHIPS, Chip, chip
from experiments.training.errors import UsageError

INSTALL = 'pip install "dasheng-jax[plan]"'
# Cores per chip in Google's names of accelerators: v5p-128 has 64 chips, v5e-16 has 16.
_CORES = {"v4": 2, "v5p": 2, "v5e": 1, "v6e": 1}
_CORNER = {2: (2, 2), 3: (2, 2, 1)}  # the chips of one host


@dataclass(frozen=True)
class Topology:
  """Slices of equal shape: `shape` chips each, `slices` of them."""

  chip: Chip
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def per_slice(self) -> int:
    """Devices of one slice."""
    return math.prod(self.shape)

  @property
  def count(self) -> int:
    """Devices of all slices."""
    return self.per_slice * self.slices

  def __str__(self) -> str:
    many = f"*{self.slices}" if self.slices > 1 else ""
    return f"{self.chip.name}:{'x'.join(map(str, self.shape))}{many}"


def parse_topology(text: str) -> Topology:
  """The topology that `text` names; UsageError, with an example, where it names none."""
  text = text.strip().lower()
  if not text:
    raise UsageError("--topology: name the devices, e.g. v5e:16x16, v5p:4x4x8*2 or h100:8")
  if named := re.fullmatch(r"(v5litepod|v5e|v6e|v5p|v4)-(\d+)", text):
    raise UsageError(
      f"--topology {text}: give the shape of the slice; {_shape_hint(*named.groups())}"
    )
  found = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)(?:\*(\d+))?", text)
  if not found:
    raise UsageError(
      f"--topology {text}: expected CHIP:SHAPE[*SLICES], e.g. v5e:16x16, v5p:4x4x8*2 or h100:8"
    )
  kind = chip(found[1])
  shape, slices = tuple(map(int, found[2].split("x"))), int(found[3] or 1)
  if kind.platform == "tpu" and len(shape) != kind.axes:
    example = "x".join(["4"] * kind.axes)
    raise UsageError(
      f"--topology {text}: a slice of {kind.name} has {kind.axes} axes, e.g. {kind.name}:{example}"
    )
  if kind.platform == "gpu" and len(shape) != 1:
    raise UsageError(f"--topology {text}: give the GPUs of a node, e.g. {kind.name}:8*2")
  if math.prod(shape) * slices < 1:
    raise UsageError(f"--topology {text}: a slice has at least one device, and there is one slice")
  return Topology(kind, shape, slices)


def _shape_hint(name: str, count: str) -> str:
  kind = "v5e" if name == "v5litepod" else name
  chips = int(count) // _CORES[kind]
  shape = squarest(max(chips, 1), CHIPS[kind].axes)
  cores = f", and {count} counts cores, two to a chip" if _CORES[kind] == 2 else ""
  return f"{chips} chips are e.g. {kind}:{'x'.join(map(str, shape))}{cores}"


def squarest(count: int, axes: int) -> tuple[int, ...]:
  """`count` chips as a box whose sides, in rising order, are as equal as can be."""
  if axes == 1:
    return (count,)
  sides = [n for n in range(1, count + 1) if count % n == 0 and n**axes <= count]
  return (sides[-1], *squarest(count // sides[-1], axes - 1))


def tpu_devices(topology: Topology) -> list[Any]:
  """Descriptions of the devices, enough to compile for; nothing can run on them.

  Raises:
    UsageError: libtpu is missing, or has no such slice.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise UsageError(f"--topology {topology}: planning for TPUs needs the TPU compiler; {INSTALL}")
  from jax.experimental import topologies

  # Compiling claims no TPU, so processes need not wait for each other, nor ask a cloud who they
  # are.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  options: dict[str, Any] = {"num_slices": topology.slices}
  if topology.chip.name == "v4":
    options["chip_config_name"] = "megacore"  # one device per chip, as the others have it
  name = f"{topology.chip.name}:{'x'.join(map(str, topology.shape))}"
  try:
    with _quiet():
      devices = list(topologies.get_topology_desc(name, "tpu", **options).devices)
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).splitlines()[0]
    raise UsageError(
      f"--topology {topology}: the TPU compiler knows no such slice ({reason}); "
      f"sides are multiples of a host's {'x'.join(map(str, _CORNER[topology.chip.axes]))} chips"
    ) from None
  if len(devices) != topology.count:
    raise UsageError(
      f"--topology {topology}: the TPU compiler describes {len(devices)} devices instead of "
      f"{topology.count}; try another release of libtpu"
    )
  return devices


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps from the user what libtpu writes to standard error as it starts: that there is no TPU."""
  sys.stderr.flush()
  saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(nothing, 2)
    yield
  finally:
    os.dup2(saved, 2)
    os.close(saved)
    os.close(nothing)
