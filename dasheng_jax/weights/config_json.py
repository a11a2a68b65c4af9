"""A configuration that was saved as JSON, back as the dataclass it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dasheng_jax.errors import WeightsError


def restored(default: Any, saved: Any, where: str) -> Any:
  """`default`, a configuration, with every field as saved; strict about names and types.

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
    elif type(value) is not type(usual) and not (type(usual) is float and type(value) is int):
      raise WeightsError(f"{where}.{name} is {value!r}, not a {type(usual).__name__}")
    values[name] = value
  try:
    return dataclasses.replace(default, **values)
  except (ValueError, TypeError) as error:
    raise WeightsError(f"{where}: {error}") from None
