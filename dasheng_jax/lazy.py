"""Packages whose public names are imported when they are first asked for."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazily(
  package: str, home: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
  """(__getattr__, __dir__) of a package.

  Args:
    package: its full name.
    home: public name -> module of the package that defines it.
  """

  def get(name: str) -> Any:
    if name not in home:
      raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{package}.{home[name]}"), name)
    setattr(sys.modules[package], name, value)
    return value

  return get, lambda: sorted(home)
