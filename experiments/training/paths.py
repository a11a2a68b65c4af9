"""Leaves of a tree by path, and tables of (path pattern, value) over them."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from experiments.training.errors import UsageError

T = TypeVar("T")


def path_of(key_path: Sequence[Any]) -> str:
  """A JAX key path as text: `encoder/blocks/attn/query/kernel`."""
  return jax.tree_util.keystr(tuple(key_path), simple=True, separator="/")


def leaves_by_path(tree: Any) -> dict[str, Any]:
  """All leaves under their paths, in tree order."""
  return {path_of(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def map_by_path(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
  """`jax.tree.map` whose function is given the path first."""
  return jax.tree_util.tree_map_with_path(lambda p, *leaves: fn(path_of(p), *leaves), tree, *rest)


def look_up(table: Sequence[tuple[str, T]], paths: Sequence[str], name: str) -> dict[str, T]:
  """The value of the first pattern found (`re.search`) in each path.

  Raises:
    UsageError: naming every path that no pattern of the table matches.
  """
  compiled = [(re.compile(pattern), value) for pattern, value in table]
  found: dict[str, T] = {}
  missing = []
  for path in paths:
    for pattern, value in compiled:
      if pattern.search(path):
        found[path] = value
        break
    else:
      missing.append(path)
  if missing:
    raise UsageError(f"no rule in {name} matches {', '.join(missing)}; add one (first match wins)")
  return found
