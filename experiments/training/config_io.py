"""Configurations as plain dictionaries, for the JSON beside a checkpoint, and what differs in two.

`from_dict(type(c), json.loads(json.dumps(to_dict(c)))) == c` for every configuration made of
dataclasses, numbers, text, paths, enums, None and tuples of these.
"""

import dataclasses
import difflib
import enum
import math
import pathlib
import typing
from typing import Any, TypeVar

from experiments.training import fields
from experiments.training.errors import UsageError

Config = TypeVar("Config")
CLASS = "class"  # key that tells which of several dataclasses a section holds


def to_dict(config: Any) -> dict[str, Any]:
  """Nested dictionary of every field, ready for strict JSON (infinities and NaN become text)."""
  out = {}
  for name, tp in fields.field_types(type(config)).items():
    value = getattr(config, name)
    out[name] = _plain(value)
    if fields.is_config(value) and len(_config_classes(tp)) > 1:
      out[name][CLASS] = type(value).__name__
  return out


def _plain(value: Any) -> Any:
  if fields.is_config(value):
    return to_dict(value)
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  if isinstance(value, dict):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, enum.Enum):
    return value.name
  if isinstance(value, pathlib.Path):
    return str(value)
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise UsageError(f"cannot save {value!r} of type {type(value).__name__} in a configuration")


def from_dict(cls: type[Config], data: Any, where: str = "") -> Config:
  """The configuration of class `cls` that `to_dict` wrote as `data`.

  Raises UsageError naming the dotted field where one is unknown, absent, of a wrong type, or
  refused by the class itself.
  """
  name = where or "configuration"
  if not isinstance(data, dict):
    raise UsageError(f"{name}: expected a group of fields, found {data!r}")
  types = fields.field_types(cls)
  for key in data:
    if key not in types and key != CLASS:
      near = difflib.get_close_matches(key, types, 1)
      hint = f"; did you mean {near[0]}?" if near else ""
      raise UsageError(f"{_join(where, key)}: {cls.__name__} has no such field{hint}")
  if absent := [_join(where, key) for key in types if key not in data]:
    raise UsageError(f"{', '.join(absent)}: absent; saved by another version of this configuration")
  values = {key: _value(tp, data[key], _join(where, key)) for key, tp in types.items()}
  try:
    return cls(**values)
  except ValueError as error:
    raise UsageError(_refusal(where, error)) from error


def _value(tp: Any, value: Any, where: str) -> Any:
  configs = _config_classes(tp)
  if configs and value is not None:
    named = value.get(CLASS) if isinstance(value, dict) else None
    chosen = [c for c in configs if c.__name__ == named] or configs
    return from_dict(chosen[0], value, where)
  item = (typing.get_args(tp) or (None,))[0]
  if typing.get_origin(tp) in fields.SEQUENCES and fields.is_config_class(item):
    return tuple(from_dict(item, v, f"{where}.{i}") for i, v in enumerate(value))
  try:
    return fields.check_value(tp, value)
  except ValueError:
    raise UsageError(f"{where}: {value!r} is not {fields.type_name(tp)}") from None


def _config_classes(tp: Any) -> list[Any]:
  return [m for m in fields.members(tp) if fields.is_config_class(m)]


def _join(where: str, key: str) -> str:
  return f"{where}.{key}" if where else key


def _refusal(where: str, error: ValueError) -> str:
  """What a section says, under its name unless the text begins with it."""
  text = str(error)
  named = not where or text.removeprefix("--").startswith(f"{where}.")
  return text if named else f"{where}: {text}"


def diff(a: Any, b: Any) -> list[tuple[str, Any, Any]]:
  """(dotted field, value in a, value in b) for every field that differs.

  "absent" stands for the value where one side lacks the field. Each of `a` and `b` is a
  configuration or the dictionary of one.
  """
  one, two = (_flat(c if isinstance(c, dict) else to_dict(c)) for c in (a, b))
  paths = list(dict.fromkeys([*one, *two]))
  rows = [(p, one.get(p, "absent"), two.get(p, "absent")) for p in paths]
  return [row for row in rows if row[1] != row[2]]


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  out: dict[str, Any] = {}
  for key, value in data.items():
    out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
  return out


def with_values(config: Config, values: dict[str, Any], where: str = "") -> Config:
  """`config` with the fields at the dotted paths of `values` replaced, sections rebuilt inside out.

  Every section sees all its new values at once, so its checks in `__post_init__` judge the whole.
  Raises UsageError with the section's name where one refuses.
  """
  new: dict[str, Any] = {k: v for k, v in values.items() if "." not in k}
  for name in dict.fromkeys(k.split(".")[0] for k in values if "." in k):
    inner = {k[len(name) + 1 :]: v for k, v in values.items() if k.startswith(name + ".")}
    section = getattr(config, name)
    if name in new:
      section = new[name]
    if section is None:
      section = fields.optional_section(fields.field_types(type(config))[name])
    new[name] = with_values(section, inner, _join(where, name))
  try:
    return dataclasses.replace(config, **new)  # type: ignore[type-var]
  except ValueError as error:
    raise UsageError(_refusal(where, error)) from error
