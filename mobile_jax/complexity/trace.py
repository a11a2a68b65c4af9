"""A function as its traced program, and an interpreter that follows facts about values through it.

Calls are entered, loops of known length are run through, and of alternatives (`lax.cond`,
`lax.platform_dependent`) the one with the most multiply-accumulates is taken. So a depthwise
convolution counts as a convolution wherever it would run as shifted sums on this backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

# A rule says what is known of an equation's results from what is known of its operands.
Rule = Callable[[core.JaxprEqn, list[Any]], list[Any]]
# Compiled code of another make, whose work cannot be seen here: calls by name, and by their suffix
# this library's own primitives that stand for such a call.
OPAQUE = ("ffi_call", "pallas_call", "pure_callback", "io_callback", "tpu_custom_call")
OPAQUE_SUFFIX = "_native"


class OpaqueProgram(ValueError):
  """The program holds a kernel that cannot be looked into, or a loop of unknown length."""


class Traced(NamedTuple):
  """A program, and for each of its inputs the path of the variable it is; None for other inputs."""

  jaxpr: core.Jaxpr
  paths: tuple[tuple[str, ...] | None, ...]


def trace(forward: Callable, variables: Any, *inputs: Any) -> Traced:
  """`forward(variables, *inputs)` traced on arrays or `jax.ShapeDtypeStruct`s."""
  jaxpr = jax.make_jaxpr(forward)(variables, *inputs).jaxpr
  named = jax.tree_util.tree_flatten_with_path(variables)[0]
  paths = [tuple(_key(k) for k in path) for path, _ in named]
  rest = len(jaxpr.invars) - len(paths)
  return Traced(jaxpr, (*paths, *[None] * rest))


def _key(entry: Any) -> str:
  return str(next(getattr(entry, n) for n in ("key", "name", "idx") if hasattr(entry, n)))


def interpret(jaxpr: core.Jaxpr, values: Sequence[Any], rule: Rule) -> list[Any]:
  """What is known of the results, from `values` of the inputs. None stands for nothing known.

  Equations that no result depends on are left out, as the compiler leaves them out.
  Raises OpaqueProgram for a kernel that cannot be looked into, whatever the rule, and for a while
  loop of unknown length.
  """
  known: dict[core.Var, Any] = dict(zip(jaxpr.invars, values, strict=True))

  def read(atom: Any) -> Any:
    return None if isinstance(atom, core.Literal) else known.get(atom)

  for eqn in _needed(jaxpr):
    found = _step(eqn, [read(v) for v in eqn.invars], rule)
    known.update(zip(eqn.outvars, found, strict=True))
  return [read(v) for v in jaxpr.outvars]


def shape_of(atom: core.Var | core.Literal) -> tuple[int, ...]:
  """Shape of an operand or result; () of what has none."""
  return getattr(atom.aval, "shape", ())


def _needed(jaxpr: core.Jaxpr) -> list[core.JaxprEqn]:
  wanted = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
  kept = []
  for eqn in reversed(jaxpr.eqns):
    if wanted.intersection(eqn.outvars):
      kept.append(eqn)
      wanted.update(v for v in eqn.invars if not isinstance(v, core.Literal))
  return kept[::-1]


def _step(eqn: core.JaxprEqn, values: list[Any], rule: Rule) -> list[Any]:
  name = eqn.primitive.name
  if name in OPAQUE or name.endswith(OPAQUE_SUFFIX):
    raise OpaqueProgram(
      f"{name} cannot be counted; trace the plain form, with_compute(kernels='xla') in a config"
    )
  if name == "cond":
    return interpret(_dearest(eqn), values[1:], rule)
  if name == "scan":
    return _scan(eqn, values, rule)
  if name == "while":
    body = eqn.params["body_jaxpr"].jaxpr
    if static_macs(body):
      raise OpaqueProgram("a while loop of unknown length multiplies matrices; use lax.scan")
    return [None] * len(eqn.outvars)
  inner = _called(eqn)
  if inner is not None:
    return interpret(inner, values, rule)
  return rule(eqn, values)


def _called(eqn: core.JaxprEqn) -> core.Jaxpr | None:
  """The program that an equation calls (jit, remat, custom derivatives), if it is a call."""
  for value in eqn.params.values():
    inner = value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
    if isinstance(inner, core.Jaxpr):
      same = len(inner.invars) == len(eqn.invars) and len(inner.outvars) == len(eqn.outvars)
      # A reduction carries a program too, of the pair that it joins: that is no call.
      if same and [shape_of(v) for v in inner.outvars] == [shape_of(v) for v in eqn.outvars]:
        return inner
  return None


def _scan(eqn: core.JaxprEqn, values: list[Any], rule: Rule) -> list[Any]:
  # JAX lines name these counts differently; the ranks tell them all the same: what is scanned over
  # and what is stacked up has one axis more outside than inside.
  body = eqn.params["jaxpr"].jaxpr
  carried = sum(map(_same_rank, eqn.outvars, body.outvars))
  constants = sum(map(_same_rank, eqn.invars, body.invars)) - carried
  carry = values[constants : constants + carried]
  found: list[Any] = [None] * (len(eqn.outvars) - carried)
  for _ in range(eqn.params["length"]):
    inputs = [*values[:constants], *carry, *values[constants + carried :]]
    out = interpret(body, inputs, rule)
    carry, found = out[:carried], out[carried:]
  return [*carry, *found]


def _same_rank(outside: core.Var | core.Literal, inside: core.Var | core.Literal) -> bool:
  return len(shape_of(outside)) == len(shape_of(inside))


def _dearest(eqn: core.JaxprEqn) -> core.Jaxpr:
  """The alternative with the most work among those that can be looked into, of equals the last."""
  costs: list[tuple[int, core.Jaxpr]] = []
  trouble: OpaqueProgram | None = None
  for branch in eqn.params["branches"]:
    try:
      costs.append((static_macs(branch.jaxpr), branch.jaxpr))
    except OpaqueProgram as error:
      trouble = error
  if not costs:
    raise trouble or OpaqueProgram("a choice without alternatives")
  return max(reversed(costs), key=lambda pair: pair[0])[1]


def static_macs(jaxpr: core.Jaxpr) -> int:
  """Multiply-accumulates of a program."""
  total = 0

  def rule(eqn: core.JaxprEqn, values: list[Any]) -> list[Any]:
    nonlocal total
    total += eqn_macs(eqn)
    return [None] * len(eqn.outvars)

  interpret(jaxpr, [None] * len(jaxpr.invars), rule)
  return total


def eqn_macs(eqn: core.JaxprEqn) -> int:
  """Multiply-accumulates of a convolution or matrix product; 0 of anything else."""
  name = eqn.primitive.name
  if name == "dot_general":
    ((contracted, _), _) = eqn.params["dimension_numbers"]
    per_output = math.prod(shape_of(eqn.invars[0])[i] for i in contracted)
  elif name == "conv_general_dilated":
    kernel = shape_of(eqn.invars[1])
    features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    per_output = math.prod(kernel) // features
  else:
    return 0
  return math.prod(shape_of(eqn.outvars[0])) * per_output
