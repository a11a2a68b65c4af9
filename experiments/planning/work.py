"""The work in a compiled program: floating-point operations of its matrix products, and bytes.

Matrix products alone are counted (a product and a sum being two operations): they are what the peak
of a chip is measured in. XLA for TPU writes them as convolutions, some over positions that lie
outside an operand and cost nothing; such positions are left out, as in XLA's own cost analysis.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass

from experiments.planning.hlo import Array, Computation, Instruction, Module, is_free

_IGNORED = ("while", "conditional", "call", "domain", "opt-barrier", "partition-id", "replica-id")


def matrix_flops(module: Module) -> float:
  """Operations of all matrix products and convolutions that a run of the program does."""
  total = 0.0
  for computation, each, runs in module.executed():
    if each.opcode == "dot":
      total += runs * _dot(computation, each)
    elif each.opcode == "convolution":
      total += runs * _convolution(computation, each)
  return total


def _shape(computation: Computation, each: Instruction, number: int) -> Array | None:
  found = computation.operand(each, number)
  return found.result[0] if found and found.result else None


def _dot(computation: Computation, each: Instruction) -> float:
  left = _shape(computation, each, 0)
  listed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.attributes)
  if left is None or listed is None:
    return 0.0
  summed = math.prod(left.dims[int(d)] for d in listed[1].split(",") if d)
  return 2.0 * each.result[0].size * summed


@dataclass(frozen=True)
class _Window:
  size: int = 1
  stride: int = 1
  low: int = 0
  lhs_dilate: int = 1
  rhs_dilate: int = 1


def _windows(attributes: str, axes: int) -> list[_Window]:
  text = re.search(r"window=\{([^}]*)\}", attributes)
  fields = dict(part.split("=") for part in text[1].split()) if text else {}

  def numbers(name: str, default: int) -> list[int]:
    if name not in fields:
      return [default] * axes
    return [int(x.split("_")[0]) for x in fields[name].split("x")]

  columns = (
    numbers("size", 1),
    numbers("stride", 1),
    numbers("pad", 0),
    numbers("lhs_dilate", 1),
    numbers("rhs_dilate", 1),
  )
  return [_Window(*row) for row in zip(*columns, strict=True)]


def _convolution(computation: Computation, each: Instruction) -> float:
  left, kernel = _shape(computation, each, 0), _shape(computation, each, 1)
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.attributes)
  if left is None or kernel is None or labels is None:
    return 0.0
  of_left, of_kernel, of_out = labels[1], labels[2], labels[3]
  axes = sum(c.isdigit() for c in of_out)
  out = each.result[0]
  total = 2.0 * out.dims[of_out.index("b")] * out.dims[of_out.index("f")]
  total *= kernel.dims[of_kernel.index("i")]
  for axis, window in enumerate(_windows(each.attributes, axes)):
    label = str(axis)
    total *= _pairs(left.dims[of_left.index(label)], out.dims[of_out.index(label)], window)
  groups = re.search(r"batch_group_count=(\d+)", each.attributes)
  return total / int(groups[1]) if groups else total


@functools.cache
def _pairs(length: int, out: int, window: _Window) -> int:
  """Pairs of an output and a kernel position that meet an element of the input."""
  reach = (length - 1) * window.lhs_dilate
  count = 0
  for k in range(window.size):
    for o in range(out):
      at = o * window.stride + k * window.rhs_dilate - window.low
      count += 0 <= at <= reach and at % window.lhs_dilate == 0
  return count


def bytes_moved(module: Module, *, on_chip: bool = False) -> float:
  """Bytes that instructions read and write in the device's memory, a fusion being one instruction.

  on_chip: count what lies in the chip's own fast memory too, as XLA's analysis does.
  Slices are counted for what they take: an update of a row of a large array moves that row.
  """
  inside = {
    called
    for computation, each, _ in module.executed()
    if each.opcode == "fusion" and (called := each.called("calls"))
  }
  total = 0.0
  for computation, each, runs in module.executed():
    if computation.name in inside or is_free(each) or each.opcode in _IGNORED:
      continue
    if each.opcode.endswith("-done") or _names_memory(each):
      continue
    total += runs * _moved(module, computation, each, on_chip)
  return total


def _names_memory(each: Instruction) -> bool:
  """Whether a call of the TPU compiler gives memory a name or a shape, and moves nothing."""
  targets = ('"AllocateBuffer"', '"ConcatBitcast"')
  return each.opcode == "custom-call" and any(t in each.attributes for t in targets)


def _moved(module: Module, computation: Computation, each: Instruction, on_chip: bool) -> float:
  def counted(array: Array) -> int:
    return array.bytes if on_chip or array.space == 0 else 0

  def read(number: int) -> list[Array]:
    source = computation.operand(each, number)
    return list(source.result) if source else []

  if each.opcode in ("slice-start", "copy-start"):
    # The result is a tuple: (operand, destination, state). What arrives was read, no more.
    source, target = each.result[0], each.result[1]
    there = target.bytes if on_chip or source.space == 0 else 0
    return there + counted(target)
  if each.opcode in ("dynamic-slice", "slice", "gather"):
    return 2.0 * sum(counted(x) for x in each.result)
  if each.opcode in ("dynamic-update-slice", "scatter"):
    return 2.0 * sum(counted(x) for x in read(1 if each.opcode == "dynamic-update-slice" else 2))
  if each.opcode.endswith("-start"):
    return sum(counted(x) for x in each.result)  # the result holds the operand as well
  whole = [sum(counted(x) for x in read(i)) for i in range(len(each.operands))]
  if each.opcode != "fusion":
    return sum(whole) + sum(counted(x) for x in each.result)
  called = module.computations[each.called("calls") or ""]
  taken = sum(min(w, _read_of(module, called, i, w)) for i, w in enumerate(whole) if w)
  return taken + _written(called, each, on_chip)


def _read_of(module: Module, called: Computation, number: int, whole: float) -> float:
  """Bytes that a fusion reads of a parameter: its slices, where it is only sliced or updated."""
  parameter = called.parameter(number)
  return whole if parameter is None else _read_by_users(module, called, parameter, whole)


def _read_by_users(module: Module, called: Computation, at: Instruction, whole: float) -> float:
  total = 0.0
  for user in called.users(at):
    first = user.operands[0] == at.name
    if user.opcode in ("dynamic-slice", "slice", "gather") and first:
      total += user.bytes
    elif user.opcode == "dynamic-update-slice" and first:
      continue  # what is not updated stays where it is
    elif user.opcode in ("bitcast", "get-tuple-element"):
      total += _read_by_users(module, called, user, whole)
    elif user.opcode == "fusion":
      inner = module.computations[user.called("calls") or ""]
      numbers = [i for i, name in enumerate(user.operands) if name == at.name]
      total += sum(_read_of(module, inner, i, whole) for i in numbers)
    else:
      return whole
  return total


def _written(called: Computation, each: Instruction, on_chip: bool) -> float:
  """Bytes that a fusion writes: the update alone where its result is an updated array."""
  ends = [called.root]
  if called.root.opcode == "tuple":
    ends = [called.instructions[n] for n in called.root.operands if n in called.instructions]
  total = 0.0
  for array, end in zip(each.result, ends, strict=False):
    if not on_chip and array.space:
      continue
    while end.opcode == "bitcast" and end.operands[0] in called.instructions:
      end = called.instructions[end.operands[0]]
    update = called.operand(end, 1) if end.opcode == "dynamic-update-slice" else None
    total += update.bytes if update else array.bytes
  return total
