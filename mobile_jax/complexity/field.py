"""How many input places an output of the convolutions looks at, along frequency and along time.

    behind a convolution: reach += dilation * (kernel - 1) * step;  step *= stride

From (1, 1) forward this gives what r = s r + (d (k - 1) + 1 - s) gives backwards over a chain
(reference text, section 7); where paths join, the widest counts, so a strided shortcut is not taken
for one more layer. Means and maxima over a whole axis are no part of it: squeeze-and-excitation,
contexts and heads see the whole clip and only weigh what the convolutions found.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jax.extend import core

from mobile_jax.complexity.trace import Traced, interpret, shape_of

# Places, infinite for a whole axis.
Extent = int | float


class Field(NamedTuple):
  """reach: input places seen, by axis. step: input places between two neighbours, by axis."""

  reach: tuple[Extent, Extent] = (1, 1)
  step: tuple[int, int] = (1, 1)


def receptive_field(traced: Traced) -> tuple[Extent, Extent]:
  """(frequency bins, frames); infinite where places attend to each other.

  Maps are [b, f, t, ...] wherever a program pools, and convolutions have f before t.
  """
  widest: tuple[Extent, Extent] = (1, 1)

  def rule(eqn: core.JaxprEqn, fields: list[Any]) -> list[Any]:
    nonlocal widest
    out = _field(eqn, fields)
    if out is not None:
      widest = (max(widest[0], out.reach[0]), max(widest[1], out.reach[1]))
    return [out] * len(eqn.outvars)

  # Variables are seen by no one; of the other inputs every place sees itself.
  interpret(traced.jaxpr, [Field() if path is None else None for path in traced.paths], rule)
  return widest


def _field(eqn: core.JaxprEqn, fields: list[Any]) -> Field | None:
  name = eqn.primitive.name
  seen = [field for field in fields if field is not None]
  if not seen:
    return None
  if name == "conv_general_dilated":
    return _windowed(eqn, fields[0])
  if name.startswith("reduce_window"):
    sizes, strides = eqn.params["window_dimensions"], eqn.params["window_strides"]
    return _look(seen[0], sizes[1:3], strides[1:3], (1, 1)) if len(sizes) == 4 else seen[0]
  if name.startswith(("reduce_", "arg", "cum")):
    return None
  if name == "dot_general" and len(seen) == 2:
    return Field((math.inf, math.inf), seen[0].step)
  reach = tuple(max(field.reach[axis] for field in seen) for axis in (0, 1))
  step = tuple(max(field.step[axis] for field in seen) for axis in (0, 1))
  return Field(reach, step)  # type: ignore[arg-type]


def _windowed(eqn: core.JaxprEqn, field: Field | None) -> Field | None:
  places = eqn.params["dimension_numbers"].rhs_spec[2:]
  if field is None or len(places) != 2:
    return field
  kernel = [shape_of(eqn.invars[1])[axis] for axis in places]
  return _look(field, kernel, eqn.params["window_strides"], eqn.params["rhs_dilation"])


def _look(field: Field, kernel: Any, strides: Any, dilation: Any) -> Field:
  axes = zip(field.reach, dilation, kernel, field.step, strict=True)
  reach = [r + d * (k - 1) * s for r, d, k, s in axes]
  step = [s * stride for s, stride in zip(field.step, strides, strict=True)]
  return Field((reach[0], reach[1]), (step[0], step[1]))
