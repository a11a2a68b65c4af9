"""One table per model maps PyTorch names and shapes to ours; both directions follow from it.

    Rule("blocks.{n}.mlp.fc1.weight", "params/blocks/layers/mlp/up/kernel", LINEAR)

Left the name in the PyTorch state dict, right our "/"-joined path, then a named transform. "{n}"
counts layers: our side is one array with a leading layer axis. Conversion is strict: every source
tensor is used or on the ignore list, every one of our arrays is filled exactly once with the right
shape, and all errors come in one report.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.tensors import Tensor

Array = np.ndarray
LAYER = "{n}"
# How many problems an error message spells out before it only counts them.
SHOWN = 6


class Transform(NamedTuple):
  """A reversible change of layout: `to_ours` and `to_torch` undo each other bit for bit."""

  name: str
  to_ours: Callable[[Array], Array]
  to_torch: Callable[[Array], Array]


class Rule(NamedTuple):
  """One line of a name table; {n} in a name counts layers."""

  torch: str
  ours: str
  transform: Transform


AS_IS = Transform("as is", lambda x: x, lambda x: x)
# (out, in) <-> (in, out)
LINEAR = Transform("linear", np.transpose, np.transpose)
# A 0-d int64 counter is an int32 here: JAX has no int64 by default, and 2^31 batches are out of
# reach.
COUNT = Transform("count", lambda x: np.asarray(x, np.int32), lambda x: np.asarray(x, np.int64))


def shaped(name: str, ours: Sequence[int], torch: Sequence[int]) -> Transform:
  """A transform that only regroups axes; -1 stands for one free axis on either side."""
  return Transform(name, lambda x: x.reshape(ours), lambda x: x.reshape(torch))


def flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
  """A nested mapping as {"a/b/c": leaf}."""
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    path = f"{prefix}{key}"
    if isinstance(value, Mapping):
      flat.update(flatten(value, path + "/"))
    else:
      flat[path] = value
  return flat


def unflatten(flat: Mapping[str, Any]) -> dict:
  """The inverse of `flatten`."""
  tree: dict = {}
  for path, value in flat.items():
    *parents, last = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = value
  return tree


def check(
  state: Mapping[str, Array],
  rules: Sequence[Rule],
  target: Mapping,
  *,
  ignore: Sequence[str] = (),
  source: str = "state dict",
) -> None:
  """WeightsError where `from_torch` would raise one; holds one tensor at a time."""
  _convert(state, rules, target, ignore, source, keep=False)


def from_torch(
  state: Mapping[str, Array],
  rules: Sequence[Rule],
  target: Mapping,
  *,
  ignore: Sequence[str] = (),
  source: str = "state dict",
) -> dict:
  """Our tree of numpy arrays from a PyTorch state dict.

  target: our tree of arrays or ShapeDtypeStructs. ignore: regular expressions of names that need
  not be used. Raises WeightsError with every unused, missing, misshapen and non-finite tensor in
  one line.
  """
  return unflatten(_convert(state, rules, target, ignore, source, keep=True))


def _convert(
  state: Mapping[str, Array],
  rules: Sequence[Rule],
  target: Mapping,
  ignore: Sequence[str],
  source: str,
  *,
  keep: bool,
) -> dict[str, Array]:
  wanted = dict(flatten(target))
  used: set[str] = set()
  filled: dict[str, Array] = {}
  problems: list[str] = []
  for rule in rules:
    if rule.ours not in wanted:
      problems.append(f"the model has no {rule.ours}")
      continue
    shape = tuple(wanted[rule.ours].shape)
    value = _gather(rule, shape, state, used, problems, keep)
    if value is not None:
      filled[rule.ours] = value
  problems += [f"nothing fills {path}" for path in wanted if path not in {r.ours for r in rules}]
  skip = re.compile("|".join(f"(?:{pattern})" for pattern in ignore) or r"(?!)")
  extra = [name for name in state if name not in used and not skip.fullmatch(name)]
  problems += [f"unexpected {name}" for name in extra]
  if problems:
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    raise WeightsError(f"{source} does not fit the model: " + "; ".join(problems[:SHOWN]) + more)
  return filled


def _gather(
  rule: Rule,
  shape: tuple[int, ...],
  state: Mapping[str, Array],
  used: set[str],
  problems: list[str],
  keep: bool,
) -> Array | None:
  """The array for one rule, stacked over its layers; None after a reported problem.

  keep: False looks at every tensor and keeps none.
  """
  stacked = LAYER in rule.torch
  names = [rule.torch.replace(LAYER, str(n)) for n in range(shape[0])] if stacked else [rule.torch]
  layer_shape = shape[1:] if stacked else shape
  whole = None
  filled = 0
  for row, name in enumerate(names):
    if name not in state:
      problems.append(f"missing {name}")
      continue
    used.add(name)
    raw = np.asarray(state[name])
    if raw.dtype.name in ("float16", "bfloat16"):
      raw = raw.astype(np.float32)  # half-precision files; parameters are float32 here
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
      problems.append(f"{name} holds NaN or infinity")
    # Sizes are compared first, since a regrouping of the wrong number of elements cannot even be
    # tried.
    fits = raw.size == int(np.prod(layer_shape))
    value = rule.transform.to_ours(raw) if fits else raw
    if value.shape != layer_shape:
      problems.append(f"{name} has shape {raw.shape}, which does not give {layer_shape}")
      continue
    filled += 1
    if keep and not stacked:
      whole = np.array(value, order="C")
    elif keep:
      # Filled row by row: a list of the rows beside their stack would be twice the memory.
      whole = np.empty(shape, value.dtype) if whole is None else whole
      whole[row] = value
  return whole if filled == len(names) else None


def to_torch(tree: Mapping, rules: Sequence[Rule]) -> dict[str, Array]:
  """The PyTorch state dict of our tree, in the table's order.

  Raises WeightsError for a path with no rule.
  """
  flat = {path: np.asarray(value) for path, value in flatten(tree).items()}
  by_path = {rule.ours: rule for rule in rules}
  _same_paths(flat, by_path)
  state: dict[str, Array] = {}
  for rule in rules:
    value = flat[rule.ours]
    rows = value if LAYER in rule.torch else value[None]
    for n, row in enumerate(rows):
      name = rule.torch.replace(LAYER, str(n))
      state[name] = np.asarray(rule.transform.to_torch(row), order="C")
  return state


def to_torch_tensors(leaves: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
  """As `to_torch`, from and to tensors that are read one at a time.

  leaves: ours, by path. The rows of one of our arrays follow each other, and it is read once as
  long as they are read in this order.
  """
  _same_paths(leaves, {rule.ours: rule for rule in rules})
  state: dict[str, Tensor] = {}
  for rule in rules:
    leaf = leaves[rule.ours]
    read = functools.lru_cache(maxsize=1)(leaf.read) if LAYER in rule.torch else leaf.read
    count, shape = (leaf.shape[0], leaf.shape[1:]) if LAYER in rule.torch else (1, leaf.shape)
    # Its own arithmetic tells a transform's shape and type; nothing of that size is allocated but
    # where it regroups axes.
    empty = np.broadcast_to(np.zeros((), leaf.dtype), shape)
    sample = rule.transform.to_torch(empty)
    for n in range(count):
      name = rule.torch.replace(LAYER, str(n))
      row = functools.partial(_row, rule, read, n)
      state[name] = Tensor(sample.shape, sample.dtype.name, row)
  return state


def _row(rule: Rule, read: Callable[[], Array], n: int) -> Array:
  value = read()
  row = value[n] if LAYER in rule.torch else value
  return np.asarray(rule.transform.to_torch(row), order="C")


def _same_paths(ours: Mapping[str, Any], by_path: Mapping[str, Rule]) -> None:
  unknown = sorted(set(ours) ^ set(by_path))
  if unknown:
    raise WeightsError("parameters and name table differ: " + ", ".join(unknown[:SHOWN]))
