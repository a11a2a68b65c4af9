"""A configuration that was saved as JSON, back as the dataclass it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dasheng_jax.errors import WeightsError


def restored(default: Any, saved: Any, where: str) -> Any:
  """`default`, a configuration, with every field as saved; strict about names and types.

  Raises WeightsError that names the field, behind `where`.
  """
  names = [field.name for field in dataclasses.fields(default)]
  if not isinstance(saved, Mapping) or set(saved) != set(names):
    differing = sorted(set(names) ^ set(saved)) if isinstance(saved, Mapping) else names
    raise WeightsError(
      f"{where} was saved by another version of this library (it differs in {', '.join(differing)})"
    )
  values = {}
  for name in names:
    usual, value = getattr(default, name), saved[name]
    if dataclasses.is_dataclass(usual):
      value = restored(usual, value, f"{where}.{name}")
    elif isinstance(usual, tuple) and isinstance(value, list):
      value = tuple(value)
    elif type(value) is not type(usual) and not (type(usual) is float and type(value) is int):
      raise WeightsError(f"{where}.{name} is {value!r}, not a {type(usual).__name__}")
    values[name] = value
  try:
    return type(default)(**values)
  except (ValueError, TypeError) as error:
    raise WeightsError(f"{where}: {error}") from None
