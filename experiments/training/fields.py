"""What a tree of configuration dataclasses says about its own fields: paths, types, values, help.

A configuration is a frozen dataclass whose fields are plain values or further dataclasses. `leaves`
flattens the tree into dotted paths. `parse_value` reads the text of a flag as the type of its
field; `check_value` does the same for a value that comes out of JSON.

Help for a field is its ordinary comment: the one at the end of its line, or else the comment lines
right above it. So a configuration stays a table that needs nothing from this package:

    peak_lr: float = 1e-3  # reached after the warm-up
"""

import collections.abc
import dataclasses
import enum
import inspect
import io
import pathlib
import textwrap
import tokenize
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

TRUE = {"true", "yes", "on", "1"}
FALSE = {"false", "no", "off", "0"}
SCALARS = (bool, int, float, str, pathlib.Path)
SEQUENCES = (tuple, list, collections.abc.Sequence)


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One field that holds a plain value: `path` is dotted, `help` may be empty."""

  path: str
  type: Any
  value: Any
  help: str
  positional: bool = False

  @property
  def many(self) -> bool:
    """Whether the flag takes any number of values."""
    return typing.get_origin(without_none(self.type)) in SEQUENCES

  @property
  def is_bool(self) -> bool:
    """Whether the bare flag means true."""
    return without_none(self.type) is bool


def is_config(value: Any) -> bool:
  """Whether `value` is an instance of a dataclass."""
  return dataclasses.is_dataclass(value) and not isinstance(value, type)


def is_config_class(tp: Any) -> bool:
  """Whether the type `tp` is a dataclass."""
  return isinstance(tp, type) and dataclasses.is_dataclass(tp)


def members(tp: Any) -> tuple[Any, ...]:
  """The alternatives of a union, and `(tp,)` for any other type."""
  union = typing.get_origin(tp) in (typing.Union, types.UnionType)
  return typing.get_args(tp) if union else (tp,)


def without_none(tp: Any) -> Any:
  """`X` for `X | None`; any other type as it is."""
  rest = [m for m in members(tp) if m is not type(None)]
  return rest[0] if len(rest) == 1 else tp


def field_types(cls: type) -> dict[str, Any]:
  """Resolved annotation of every field of a dataclass that its constructor takes."""
  hints = typing.get_type_hints(cls)
  return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def leaf_type(tp: Any, value: Any) -> Any:
  """The type that a flag is read as: the annotation, or the value's own where that says little."""
  return type(value) if not settable(tp) and isinstance(value, SCALARS) else tp


def settable(tp: Any) -> bool:
  """Whether text can be read as `tp`."""
  return all(_readable(m) for m in members(tp))


def _readable(tp: Any) -> bool:
  origin = typing.get_origin(tp)
  if origin in SEQUENCES:
    return all(a is ... or all(_scalar(m) for m in members(a)) for a in typing.get_args(tp))
  return tp is type(None) or _scalar(tp)


def _scalar(tp: Any) -> bool:
  return tp in SCALARS or _is_enum(tp) or typing.get_origin(tp) is Literal


def optional_section(tp: Any) -> Any:
  """A default instance of `C` for the type `C | None`, where every field of C has a default."""
  inner = without_none(tp)
  if not is_config_class(inner):
    return None
  try:
    return inner()
  except TypeError:
    return None


def leaves(config: Any, prefix: str = "") -> Iterator[Leaf]:
  """Every plain field of a configuration tree, in the order of its definition.

  A section that may be None can be set to it; while it is None it shows the fields of a fresh
  one, so that setting a field switches it on.
  """
  comments = field_comments(type(config))
  meta = {f.name: f.metadata for f in dataclasses.fields(config)}
  for name, tp in field_types(type(config)).items():
    path, value = prefix + name, getattr(config, name)
    section = optional_section(tp) if value is None else value
    if is_config(section):
      if type(None) in members(tp):
        yield Leaf(path, type(None), value and "set", "none switches the fields below off")
      yield from leaves(section, path + ".")
      continue
    text = meta[name].get("help") or comments.get(name, "")
    positional = bool(meta[name].get("positional"))
    yield Leaf(path, leaf_type(tp, value), value, text, positional)


def field_comments(cls: type) -> dict[str, str]:
  """Comments beside (or else right above) the fields of a dataclass, inherited ones included."""
  found: dict[str, str] = {}
  for base in reversed(cls.__mro__[:-1]):
    try:
      source = inspect.getsource(base)
    except (OSError, TypeError):  # made at run time, or installed without sources
      continue
    found |= {n: c for n, c in _comments(source) if n in inspect.get_annotations(base)}
  return found


def _comments(source: str) -> Iterator[tuple[str, str]]:
  source = textwrap.dedent(source)
  beside: dict[int, str] = {}
  alone: dict[int, str] = {}
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      kind = beside if token.line[: token.start[1]].strip() else alone
      kind[token.start[0]] = token.string.lstrip("# ")
  for number, line in enumerate(source.splitlines(), 1):
    name = line.split(":")[0].strip()
    if not name.isidentifier():
      continue
    above: list[str] = []
    while number - 1 - len(above) in alone:
      above.append(alone[number - 1 - len(above)])
    if text := beside.get(number) or " ".join(reversed(above)):
      yield name, text


def type_name(tp: Any) -> str:
  """How help and errors call a type: `INT`, `{adam,lion}`, `FLOAT ...`, `STR|none`."""
  names: dict[Any, str] = {bool: "true|false", type(None): "none", pathlib.Path: "PATH"}
  if tp in names:
    return names[tp]
  parts = members(tp)
  if len(parts) > 1:
    return "|".join(type_name(p) for p in parts)
  origin, args = typing.get_origin(tp), typing.get_args(tp)
  if origin is Literal:
    return "{" + ",".join(str(a) for a in args) + "}"
  if origin in SEQUENCES:
    fixed = [a for a in args if a is not ...]
    open_ended = origin is not tuple or ... in args
    return type_name(fixed[0]) + " ..." if open_ended else " ".join(map(type_name, fixed))
  if _is_enum(tp):
    return "{" + ",".join(tp.__members__) + "}"
  return getattr(tp, "__name__", str(tp)).upper()


def choices(tp: Any) -> list[str]:
  """The names that a type admits, where it admits a few names only."""
  named = [m for m in members(tp) if typing.get_origin(m) is Literal or _is_enum(m)]
  return [str(c) for m in named for c in (typing.get_args(m) or m.__members__)]


def _is_enum(tp: Any) -> bool:
  return isinstance(tp, type) and issubclass(tp, enum.Enum)


def parse_value(tp: Any, texts: Sequence[str]) -> Any:
  """The value of type `tp` that `texts` (one text per value) spell out.

  Raises ValueError where they do not; the message is for `cli` to write, which knows the flag.
  """
  return _first(members(tp), lambda member: _parse_one(member, texts))


def _parse_one(tp: Any, texts: Sequence[str]) -> Any:
  origin, args = typing.get_origin(tp), typing.get_args(tp)
  if origin in SEQUENCES:
    return _sequence(origin, args, texts, lambda item, text: parse_value(item, [text]))
  (text,) = texts
  if tp is type(None):
    return {"none": None}[text.lower()]
  if tp is bool:
    return {**dict.fromkeys(TRUE, True), **dict.fromkeys(FALSE, False)}[text.lower()]
  if tp is int:
    try:
      return int(text)
    except ValueError:
      return _whole(float(text))  # 1e6 is a fair way to write a number of steps
  if _is_enum(tp):
    return tp[text]
  if origin is Literal:
    return {str(a): a for a in args}[text]
  return tp(text)


def check_value(tp: Any, value: Any) -> Any:
  """`value` as read from JSON, as the type `tp`. Raises ValueError where it does not fit."""
  return _first(members(tp), lambda member: _check_one(member, value))


def _check_one(tp: Any, value: Any) -> Any:
  origin, args = typing.get_origin(tp), typing.get_args(tp)
  if origin in SEQUENCES and isinstance(value, list | tuple):
    return _sequence(origin, args, value, check_value)
  if _is_enum(tp):
    return tp[value]
  if origin is Literal:
    if not any(value == a and type(value) is type(a) for a in args):
      raise ValueError(value)
    return value
  if tp is float and type(value) in (int, str):
    return float(value)  # JSON has no infinity: `config_io` writes it as text
  if tp is pathlib.Path and isinstance(value, str):
    return pathlib.Path(value)
  if tp in (*SCALARS, type(None)):
    if type(value) is not tp:
      raise ValueError(value)
    return value
  if origin in SEQUENCES:
    raise ValueError(value)
  return value  # an annotation that nobody can check, such as Any


def _whole(number: float) -> int:
  if number != int(number):
    raise ValueError(number)
  return int(number)


def _sequence(origin: Any, args: tuple, values: Sequence, read: Callable[[Any, Any], Any]) -> Any:
  fixed = [a for a in args if a is not ...]
  if origin is tuple and ... not in args and args:
    if len(values) != len(fixed):
      raise ValueError(f"{len(fixed)} values")
    return tuple(read(a, v) for a, v in zip(fixed, values, strict=True))
  item = fixed[0] if fixed else str
  made = [read(item, v) for v in values]
  return made if origin is list else tuple(made)


def _first(options: Sequence[Any], read: Callable[[Any], Any]) -> Any:
  """The first reading that works; None and numbers come before text, which would take anything."""
  ranked = sorted(options, key=lambda m: (m is not type(None), m in (str, pathlib.Path)))
  for option in ranked:
    try:
      return read(option)
    except (ValueError, KeyError, TypeError, OverflowError):
      continue
  raise ValueError("no reading fits")
