"""One table per model maps PyTorch names and shapes to ours; both directions follow from it.

    Rule("blocks.{n}.mlp.fc1.weight", "params/blocks/layers/mlp/up/kernel", LINEAR)

Left the name in the PyTorch state dict, right our "/"-joined path, then a named transform. "{n}"
counts layers: our side is one array with a leading layer axis. Conversion is strict: every source
tensor is used or on the ignore list, every one of our arrays is filled exactly once, every tensor
has the shape and the kind of numbers of the released code, and all errors come in one report.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.tensors import (
  FLOATING,
  WHOLE_NUMBERS,
  Tensor,
  headers,
  holds,
  largest,
  limit_of,
)

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
COUNT = Transform(
  "count", lambda x: np.asarray(x, np.int32).reshape(()), lambda x: np.asarray(x, np.int64)
)


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
  dtype: str = "float32",
) -> None:
  """WeightsError where `from_torch` would raise one, and more; holds one tensor at a time.

  dtype: of the floating-point tensors once they are written; values that do not stay finite in it
  are refused too. The tensors under `ignore` must hold numbers like all others.
  """
  _convert(state, rules, target, ignore, source, dtype, keep=False)


def check_headers(
  tensors: Mapping[str, Tensor],
  rules: Sequence[Rule],
  target: Mapping,
  *,
  ignore: Sequence[str] = (),
  source: str = "state dict",
) -> None:
  """The part of `check` that needs no value: names, shapes and types."""
  _raise(_compared(tensors, rules, dict(flatten(target)), _pattern(ignore))[1], source)


def from_torch(
  state: Mapping[str, Array],
  rules: Sequence[Rule],
  target: Mapping,
  *,
  ignore: Sequence[str] = (),
  source: str = "state dict",
) -> dict:
  """Our tree of numpy arrays from a PyTorch state dict, in the target's types.

  target: our tree of arrays or ShapeDtypeStructs. ignore: regular expressions of names that need
  not be used. Names, shapes and types are compared before any value is read. Raises WeightsError
  with every unused, missing, misshapen, mistyped and non-finite tensor in one line.
  """
  return unflatten(_convert(state, rules, target, ignore, source, "float32", keep=True))


def _convert(
  state: Mapping[str, Array],
  rules: Sequence[Rule],
  target: Mapping,
  ignore: Sequence[str],
  source: str,
  dtype: str,
  *,
  keep: bool,
) -> dict[str, Array]:
  """keep: False looks at every tensor and keeps none."""
  wanted, tensors = dict(flatten(target)), headers(state)
  skip = _pattern(ignore)
  sound, problems = _compared(tensors, rules, wanted, skip)
  filled: dict[str, Array] = {}
  for rule in rules:
    if rule.ours in wanted:
      value = _gather(rule, wanted[rule.ours], state, sound, dtype, problems, keep)
      if value is not None:
        filled[rule.ours] = value
  if not keep:
    for name, tensor in tensors.items():
      if name not in sound and tensor.dtype in FLOATING and skip.fullmatch(name):
        odd = not np.isfinite(largest(np.asarray(state[name])))
        problems += [f"{name} holds NaN or infinity"] if odd else []
  _raise(problems, source)
  return filled


def _raise(problems: Sequence[str], source: str) -> None:
  if problems:
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    text = "; ".join(problems[:SHOWN])
    # Names are a file's own and may hold anything.
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    raise WeightsError(f"{source} does not fit the model: {text}{more}")


def _pattern(ignore: Sequence[str]) -> re.Pattern[str]:
  return re.compile("|".join(f"(?:{pattern})" for pattern in ignore) or r"(?!)")


def _compared(
  tensors: Mapping[str, Tensor],
  rules: Sequence[Rule],
  wanted: Mapping[str, Any],
  skip: re.Pattern[str],
) -> tuple[set[str], list[str]]:
  """(names of tensors of the right shape and type, problems of all others); reads no value."""
  sound: set[str] = set()
  used: set[str] = set()
  problems: list[str] = []
  for rule in rules:
    if rule.ours not in wanted:
      problems.append(f"the model has no {rule.ours}")
      continue
    official = _official(rule, wanted[rule.ours])
    for name in names_of(rule, wanted[rule.ours].shape):
      if name not in tensors:
        problems.append(f"missing {name}")
        continue
      used.add(name)
      problem = _misfit(name, tensors[name], official)
      if problem:
        problems.append(problem)
      else:
        sound.add(name)
  ours = {rule.ours for rule in rules}
  problems += [f"nothing fills {path}" for path in wanted if path not in ours]
  extra = [name for name in tensors if name not in used and not skip.fullmatch(name)]
  return sound, problems + [f"unexpected {name}" for name in extra]


def names_of(rule: Rule, shape: Sequence[int]) -> list[str]:
  """The source names of a rule; shape: of our array, whose first axis counts layers under {n}."""
  if LAYER not in rule.torch:
    return [rule.torch]
  return [rule.torch.replace(LAYER, str(n)) for n in range(shape[0])]


def _official(rule: Rule, leaf: Any) -> Array:
  """An array in the shape and type that the source has for one of our leaves, or its layers.

  The transform's own arithmetic tells them. It runs on one zero that stands for all of them, so
  nothing of that size is allocated.
  """
  shape = leaf.shape[1:] if LAYER in rule.torch else leaf.shape
  return rule.transform.to_torch(np.broadcast_to(np.zeros((), leaf.dtype), shape))


def _misfit(name: str, tensor: Tensor, official: Array) -> str:
  """What is wrong with a tensor's shape or type; "" for nothing."""
  # Some writers store a single number as a list of one.
  if tensor.shape != official.shape and (tensor.shape, official.shape) != ((1,), ()):
    return f"{name} has shape {tensor.shape}, not {official.shape}"
  floating = official.dtype.name in FLOATING
  if tensor.dtype not in (FLOATING if floating else WHOLE_NUMBERS):
    kind = "floating-point" if floating else "whole"
    return f"{name} holds {tensor.dtype}, not {kind} numbers"
  return ""


def _gather(
  rule: Rule,
  leaf: Any,
  state: Mapping[str, Array],
  sound: set[str],
  dtype: str,
  problems: list[str],
  keep: bool,
) -> Array | None:
  """The array for one rule, stacked over its layers; None where one is not sound, or kept."""
  stacked = LAYER in rule.torch
  names = names_of(rule, leaf.shape)
  complete = all(name in sound for name in names)
  whole = None
  for row, name in enumerate(names):
    if name not in sound:
      continue
    raw = np.asarray(state[name])
    odd = _odd_values(name, raw, dtype)
    if odd:
      problems += odd
      complete = False
    if not keep or not complete:
      continue
    value = rule.transform.to_ours(raw)
    if not stacked:
      whole = np.array(value, leaf.dtype, order="C")
      continue
    # Filled row by row: a list of the rows beside their stack would be twice the memory.
    whole = np.empty(leaf.shape, leaf.dtype) if whole is None else whole
    whole[row] = value
  return whole if complete else None


def _odd_values(name: str, raw: Array, dtype: str) -> list[str]:
  """What is wrong with a tensor's values, once they are float32 here and `dtype` in a file."""
  if raw.dtype.name in WHOLE_NUMBERS:
    # Counters are int32 here.
    odd = raw.size and not (int(raw.min()) >= 0 and int(raw.max()) < 1 << 31)
    return [f"{name} holds {int(raw.max())}, not a count from 0 to 2147483647"] if odd else []
  value = largest(raw)
  if not np.isfinite(value):
    return [f"{name} holds NaN or infinity"]
  for kind in dict.fromkeys(("float32", dtype)):
    if not holds(kind, value):
      instead = f"; use {_WIDER[kind]}" if kind in _WIDER else ""
      return [f"{name} holds values beyond {limit_of(kind):g}, which {kind} cannot hold{instead}"]
  return []


# What to write in place of a type that is too small.
_WIDER = {"float16": "bfloat16", "bfloat16": "float32"}


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
    official = _official(rule, leaf)
    for n, name in enumerate(names_of(rule, leaf.shape)):
      row = functools.partial(_row, rule, read, n)
      state[name] = Tensor(official.shape, official.dtype.name, row)
  return state


def _row(rule: Rule, read: Callable[[], Array], n: int) -> Array:
  value = read()
  row = value[n] if LAYER in rule.torch else value
  return np.asarray(rule.transform.to_torch(row), order="C")


def _same_paths(ours: Mapping[str, Any], by_path: Mapping[str, Rule]) -> None:
  unknown = sorted(set(ours) ^ set(by_path))
  if unknown:
    raise WeightsError("parameters and name table differ: " + ", ".join(unknown[:SHOWN]))
