"""What devices send each other in one run of a compiled program, by kind and by network.

Bytes are what one device sends, by the usual ring schedules over n devices: all-gather (n - 1) of
its own shards, reduce-scatter (n - 1) / n of its operand, all-reduce twice that, all-to-all
(n - 1) / n, a permutation its operand. Where a group spans slices, the exchange goes inside the
slices first and between them with what is left, as XLA does it, and both parts are kept apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.planning.hlo import Computation, Instruction, Module

KINDS = (
  "all-gather",
  "reduce-scatter",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "collective-broadcast",
)
# The TPU compiler writes a reduce-scatter as a fusion of this name around an all-reduce.
_SCATTER = "all-reduce-scatter"
# It spreads a collective over the fusions that run beside it, all of which name it under this mark;
# the one that starts it counts.
_SPREAD = "chain_id="


@dataclass(frozen=True)
class Traffic:
  """One kind of exchange among groups of one size.

  Attributes:
    kind: of `KINDS`.
    group: devices that take part together.
    slices: slices that a group spans.
    count: how many in one run.
    inner: bytes that a device sends within its slice.
    outer: bytes that it sends to other slices.
  """

  kind: str
  group: int
  slices: int
  count: float
  inner: float
  outer: float


def traffic(
  module: Module, devices: int, per_slice: int, *, scatter_from_slices: bool = False
) -> list[Traffic]:
  """All exchanges of a program for `devices` devices, numbered slice by slice; largest first.

  scatter_from_slices: take an all-reduce of which every device keeps its own part alone for a
    reduce-scatter: right for a program that the compiler for GPUs, which makes one of the two, has
    not seen yet.
  """
  found: dict[tuple[str, int, int], list[float]] = {}
  for computation, each, runs in module.executed():
    kind = each.opcode.removesuffix("-start")
    if kind not in KINDS or each.opcode.endswith("-done") or _continued(computation, each):
      continue
    operand = sum(x.bytes for i in range(len(each.operands)) for x in _source(computation, each, i))
    if kind == "collective-permute":
      group, spans, inner, outer = _permutation(each.attributes, operand, per_slice)
    else:
      members = group_of(each.attributes, devices)
      group, spans = len(members), len({m // per_slice for m in members})
      if kind == "all-reduce" and (
        computation.name.startswith(_SCATTER)
        or (scatter_from_slices and _kept_in_parts(computation, each, group))
      ):
        kind = "reduce-scatter"
      inner, outer = sent(kind, operand, group, spans)
    row = found.setdefault((kind, group, spans), [0.0, 0.0, 0.0])
    for i, x in enumerate((1.0, inner, outer)):
      row[i] += runs * x
  rows = [Traffic(*key, *values) for key, values in found.items() if key[1] > 1]
  return sorted(rows, key=lambda row: -(row.inner + row.outer))


def sent(kind: str, operand: float, group: int, slices: int) -> tuple[float, float]:
  """Bytes that a device sends (within its slice, to other slices) for an operand of so many."""
  inside = group // slices
  if kind == "all-gather":
    return operand * slices * (inside - 1), operand * (slices - 1)
  scattered = operand * (inside - 1) / inside, operand / inside * (slices - 1) / slices
  if kind == "all-reduce":
    return 2 * scattered[0], 2 * scattered[1]
  if kind == "all-to-all":
    return operand * (inside - 1) / group, operand * (group - inside) / group
  if kind == "collective-broadcast":
    return (operand, 0.0) if slices == 1 else (0.0, operand)
  return scattered


def _source(computation: Computation, each: Instruction, number: int) -> Iterable:
  source = computation.operand(each, number)
  return source.result if source else ()


def _continued(computation: Computation, each: Instruction) -> bool:
  """Whether this is a later part of an exchange that another fusion started."""
  if _SPREAD not in each.attributes:
    return False
  return not any(
    user.opcode == "custom-call" and 'custom_call_target="AsyncCollectiveStart"' in user.attributes
    for user in computation.users(each)
  )


def _kept_in_parts(computation: Computation, each: Instruction, group: int) -> bool:
  """Whether a device goes on with one part of a sum alone, of as many as there are devices."""
  users, at = computation.users(each), each
  while len(users) == 1 and users[0].opcode in ("bitcast", "copy", "convert", "transpose"):
    at = users[0]
    users = computation.users(at)
  return bool(users) and all(
    u.opcode == "dynamic-slice"
    and u.operands[0] == at.name
    and u.result[0].size * group == each.result[0].size
    for u in users
  )


def _permutation(attributes: str, operand: float, per_slice: int) -> tuple[int, int, float, float]:
  pairs = [
    (int(a), int(b))
    for a, b in re.findall(r"\{(\d+),(\d+)\}", _braced(attributes, "source_target_pairs="))
  ]
  if not pairs:
    return 1, 1, 0.0, 0.0
  crossing = sum(a // per_slice != b // per_slice for a, b in pairs) / len(pairs)
  return _cycle(pairs), 2 if crossing else 1, operand * (1 - crossing), operand * crossing


def _cycle(pairs: Sequence[tuple[int, int]]) -> int:
  """Devices that the permutation joins with the first one."""
  onward = dict(pairs)
  start = at = pairs[0][0]
  seen = {start}
  while (at := onward.get(at, start)) not in seen:
    seen.add(at)
  return max(len(seen), 2)


def _braced(text: str, key: str) -> str:
  """What stands in the braces behind `key`, inner braces and all."""
  start = text.find(key)
  if start < 0:
    return ""
  start += len(key)
  depth = 0
  for at in range(start, len(text)):
    depth += (text[at] == "{") - (text[at] == "}")
    if not depth:
      return text[start : at + 1]
  return ""


def group_of(attributes: str, devices: int) -> tuple[int, ...]:
  """The devices of the first group of a collective, in any of the three notations of XLA."""
  if named := re.search(r"replica_groups=mesh\[([^\]]*)\]([^{]*)\{([^}]*)\}", attributes):
    return _mesh_group(*named.groups())
  if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
    shape, source = (tuple(map(int, x.split(","))) for x in iota.groups()[:2])
    return tuple(int(x) for x in _counted(source, iota[3]).reshape(shape)[0])
  listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
  if listed:
    return tuple(map(int, listed[1].split(",")))
  return tuple(range(devices))


def _counted(shape: tuple[int, ...], axes: str | None) -> np.ndarray:
  """0, 1, 2, ... in a shape, with its axes in another order: `[2,4]T(1,0)`."""
  order = np.arange(math.prod(shape)).reshape(shape)
  return order.transpose(tuple(map(int, axes.split(",")))) if axes else order


def _mesh_group(mesh: str, devices: str, axes: str) -> tuple[int, ...]:
  """`'a'=2,'b'=4` and `'b'`, or a part of an axis, `'b':(1)2` (2 of its 4, 1 being before them).

  devices: empty, or `device_ids=([2,4]T(1,0))`, or a plain list, in the order of the mesh.
  """
  sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
  shape = tuple(sizes.values())
  order = np.arange(math.prod(shape))
  if iota := re.search(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", devices):
    order = _counted(tuple(map(int, iota[1].split(","))), iota[2])
  elif listed := re.search(r"device_ids=\(([\d, ]+)\)", devices):
    order = np.array([int(x) for x in listed[1].split(",")])
  pick: list[list[int]] = [[0] for _ in sizes]
  names = list(sizes)
  for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes):
    size = sizes[name]
    stride = size // (int(before) * int(part)) if part else 1
    pick[names.index(name)] = [i * stride for i in range(int(part) if part else size)]
  return tuple(int(x) for x in order.reshape(shape)[np.ix_(*pick)].ravel())
