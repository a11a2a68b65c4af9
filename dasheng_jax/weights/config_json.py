"""Configurations as JSON: ours, back as the dataclass they were, and those of others, checked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from dasheng_jax.errors import WeightsError

# No number of a configuration is larger: sizes, rates, levels.
LARGEST = 1_000_000


# What a field may hold by the type of its default; of others that type alone. None is an optional
# number.
_KINDS: Mapping[type, tuple[type, ...]] = {
  float: (float, int),
  type(None): (type(None), float, int),
}


def parsed_json(text: str | bytes) -> Any:
  """What a JSON text holds; ValueError for any that cannot be read, however it is made."""
  try:
    return json.loads(text)
  except RecursionError:
    raise ValueError("nested too deeply") from None


def restored(default: Any, saved: Any, where: str) -> Any:
  """`default`, a configuration, with every field as saved; strict about names, types and sizes.

  A field that is absent is younger than the file and keeps its default, which is what the library
  did before it had the field. Raises WeightsError that names the field, behind `where`.
  """
  names = [field.name for field in dataclasses.fields(default)]
  if not isinstance(saved, Mapping):
    raise WeightsError(f"{where} holds no configuration; convert the source again")
  if unknown := [name for name in saved if name not in names]:
    raise WeightsError(
      f"{where} was saved by another version of this library, which knows {', '.join(unknown)}; "
      "update the library"
    )
  values = {}
  for name, value in saved.items():
    usual = getattr(default, name)
    if dataclasses.is_dataclass(usual):
      value = restored(usual, value, f"{where}.{name}")
    elif isinstance(usual, tuple) and isinstance(value, list):
      value = tuple(value)
    elif type(value) not in _KINDS.get(type(usual), (type(usual),)):
      raise WeightsError(f"{where}.{name} is {shown(value)}, not a {type(usual).__name__}")
    if isinstance(value, int | float) and not abs(value) <= LARGEST:
      raise WeightsError(
        f"{where}.{name} is {shown(value)}, more than any model has; foreign or damaged"
      )
    values[name] = value
  try:
    return dataclasses.replace(default, **values)
  except (ValueError, TypeError) as error:
    raise WeightsError(f"{where}: {error}") from None


class Told(NamedTuple):
  """What the configuration of an official or foreign file tells; None where it does not.

  heads: `num_heads`. stride: `patch_stride`, (mel bins, frames). top_db: the clamp's depth in dB.
  """

  heads: int | None = None
  stride: tuple[int, int] | None = None
  top_db: float | None = None


def told_by(config: Mapping[str, Any], source: str) -> Told:
  """The fields that we use of somebody else's configuration.

  WeightsError for one of another type or out of its range, behind `source`.
  """
  heads, stride, top_db = (config.get(name) for name in ("num_heads", "patch_stride", "top_db"))
  if heads is not None and not _count(heads):
    raise _wrong(source, "num_heads", heads, f"a whole number from 1 to {LARGEST:,}")
  if stride is not None:
    if not isinstance(stride, list | tuple) or len(stride) != 2 or not all(map(_count, stride)):
      raise _wrong(source, "patch_stride", stride, "a pair of whole numbers")
    stride = (int(stride[0]), int(stride[1]))
  if top_db is not None:
    if type(top_db) not in (int, float) or not 0 < top_db <= LARGEST:
      raise _wrong(source, "top_db", top_db, "a number of decibels above 0")
    top_db = float(top_db)
  return Told(heads, stride, top_db)


def _count(value: Any) -> bool:
  return type(value) is int and 1 <= value <= LARGEST


def _wrong(source: str, name: str, value: Any, wanted: str) -> WeightsError:
  return WeightsError(
    f"{source}: its configuration says {name} {shown(value)}, which is not {wanted}"
  )


def shown(value: Any) -> str:
  """A foreign value on one short line."""
  try:
    return " ".join(repr(value).split())[:60]
  except (ValueError, RecursionError):  # an integer of thousands of digits, a list within itself
    return f"some {type(value).__name__}"
