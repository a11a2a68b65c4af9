"""The convolutions and matrix products of a program, and two ways of adding them up.

"all" counts every convolution and matrix product, also products of two computed things (attention,
kernels mixed per clip), and no biases. "tool" counts as the released counter does (reference text,
section 7): layers that its framework has as modules, one more per output where the layer has a
bias, and nothing of a dynamic convolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from jax.extend import core

from mobile_jax.complexity.trace import Traced, eqn_macs, interpret, shape_of

# What a parameter goes through on its way into a product without becoming another thing.
_RESHAPED = {"broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze", "transpose"}


class Product(NamedTuple):
  """One convolution or matrix product. parameter: path of its kernel, None if that is computed."""

  kind: Literal["convolution", "matmul"]
  macs: int
  outputs: int
  parameter: tuple[str, ...] | None


class _Origin(NamedTuple):
  """path: the variable that a value is. computed: whether it depends on more than variables."""

  path: tuple[str, ...] | None
  computed: bool


def products(traced: Traced) -> list[Product]:
  """In the order of execution; what depends on variables alone is left out: it can be made once.

  Raises OpaqueProgram where the program cannot be looked into.
  """
  found: list[Product] = []

  def rule(eqn: core.JaxprEqn, values: list[Any]) -> list[Any]:
    origins = [value for value in values if value is not None]
    name, macs = eqn.primitive.name, eqn_macs(eqn)
    computed = any(origin.computed for origin in origins)
    if macs and computed:
      path = next((o.path for o in reversed(origins) if o.path is not None), None)
      kind: Any = "matmul" if name == "dot_general" else "convolution"
      found.append(Product(kind, macs, math.prod(shape_of(eqn.outvars[0])), path))
    kept = origins[0].path if origins and name in _RESHAPED else None
    return [_Origin(kept, computed)] * len(eqn.outvars)

  interpret(traced.jaxpr, [_Origin(path, path is None) for path in traced.paths], rule)
  return found


def all_macs(found: Iterable[Product]) -> int:
  """Of every convolution and matrix product, without biases."""
  return sum(product.macs for product in found)


def tool_macs(found: Iterable[Product], paths: Iterable[tuple[str, ...] | None]) -> int:
  """As the released counter has it. paths: of all variables, which tell what a layer holds."""
  known = {path for path in paths if path is not None}
  total = 0
  for product in found:
    path = product.parameter
    # A dynamic convolution is known by the router beside its kernels.
    if path is None or path[-1] != "kernel" or (*path[:-1], "router", "kernel") in known:
      continue
    total += product.macs + (product.outputs if (*path[:-1], "bias") in known else 0)
  return total
