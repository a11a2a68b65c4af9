"""How many numbers a program must hold at once, its variables apart.

The program runs in its own order. Convolutions, products and reductions write a buffer, which lives
until it was read for the last time. Element-wise steps cost nothing where one reader follows that
can take them in (another element-wise step or a reduction); elsewhere they write over an operand
that nobody reads again, or into a buffer of their own. What depends on variables alone, such as
kernels with a norm folded in, is not counted: it can be made once. Inputs count.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jax.extend import core

from mobile_jax.complexity.trace import Traced, interpret

# The same numbers under another shape.
_VIEWS = {"copy", "reshape", "squeeze", "stop_gradient", "transpose", "optimization_barrier"}
_NAMES = """
abs add add_any and broadcast_in_dim ceil clamp convert_element_type cos div eq erf exp exp2 expm1
floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg not or pow rsqrt
select_n sign sin sqrt square sub tanh xor
"""
_ELEMENTWISE = frozenset(_NAMES.split())


class _Op(NamedTuple):
  """A step: what it reads and writes, if element by element, and if it takes such steps in."""

  reads: tuple[int, ...]
  writes: tuple[int, ...]
  elementwise: bool
  takes_in: bool


def peak_elements(traced: Traced) -> int:
  """The most numbers held at any moment between inputs and outputs."""
  ops, sizes, outputs = _linear(traced)
  written = _written(ops, sizes, outputs)
  sources = _sources(ops, sizes, written)
  last: dict[int, int] = {value: len(ops) for out in outputs for value in sources[out]}
  for number, op in enumerate(ops):
    if any(value in written for value in op.writes):
      for buffer in _read(op, sources):
        last[buffer] = max(last.get(buffer, 0), number)
  inputs = set(sizes) - {value for op in ops for value in op.writes}
  live = {value: sizes[value] for value in inputs if value in last}
  peak = sum(live.values())
  for number, op in enumerate(ops):
    made = {value: sizes[value] for value in op.writes if value in written}
    if not made:
      continue
    dying = [b for b in live if last[b] == number]
    held = sum(live.values()) + sum(made.values())
    if op.elementwise:
      fits = max((live[b] for b in dying if b in _read(op, sources)), default=0)
      held -= min(fits, sum(made.values()))
    peak = max(peak, held)
    for buffer in dying:
      del live[buffer]
    live |= {value: size for value, size in made.items() if last.get(value, -1) > number}
  return peak


def _linear(traced: Traced) -> tuple[list[_Op], dict[int, int], list[int]]:
  """(steps, size of each value, results) with all calls entered; values are numbers."""
  ops: list[_Op] = []
  sizes: dict[int, int] = {}

  def new(aval: Any) -> int:
    sizes[len(sizes)] = math.prod(aval.shape)
    return len(sizes) - 1

  def rule(eqn: core.JaxprEqn, values: list[Any]) -> list[Any]:
    reads = tuple(dict.fromkeys(v for v in values if v is not None))
    if not reads:
      return [None] * len(eqn.outvars)
    name = eqn.primitive.name
    if name in _VIEWS:
      return [values[0]] * len(eqn.outvars)
    elementwise = name in _ELEMENTWISE
    writes = tuple(new(v.aval) for v in eqn.outvars)
    takes_in = elementwise or name.startswith(("reduce_", "arg"))
    ops.append(_Op(reads, writes, elementwise, takes_in))
    return list(writes)

  pairs = zip(traced.jaxpr.invars, traced.paths, strict=True)
  start = [new(var.aval) if path is None else None for var, path in pairs]
  results = interpret(traced.jaxpr, start, rule)
  return ops, sizes, [value for value in results if value is not None]


def _written(ops: list[_Op], sizes: dict[int, int], outputs: list[int]) -> set[int]:
  """The values that need a buffer."""
  readers: dict[int, list[_Op]] = {value: [] for value in sizes}
  for op in ops:
    for value in op.reads:
      readers[value].append(op)
  free = set()
  for op in ops:
    for value in op.writes:
      once = len(readers[value]) == 1 and readers[value][0].takes_in
      if op.elementwise and once and value not in outputs:
        free.add(value)
  return set(sizes) - free


def _sources(ops: list[_Op], sizes: dict[int, int], written: set[int]) -> dict[int, set[int]]:
  """The buffers that a value is read from."""
  sources = {value: {value} for value in sizes}
  for op in ops:
    for value in op.writes:
      if value not in written:
        sources[value] = _read(op, sources)
  return sources


def _read(op: _Op, sources: dict[int, set[int]]) -> set[int]:
  return set().union(*(sources[value] for value in op.reads))
