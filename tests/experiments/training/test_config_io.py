"""Saved configurations come back equal, refuse what does not fit, and tell what changed."""

import dataclasses
import enum
import json
import math
import pathlib
from typing import Any, Literal

import pytest

from experiments.training import config_io, fields
from experiments.training.errors import UsageError


class Kind(enum.Enum):
  A = "a"
  B = "b"


@dataclasses.dataclass(frozen=True)
class Adam:
  rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Lion:
  rate: float = 1e-4


@dataclasses.dataclass(frozen=True)
class Stage:
  steps: int = 1


@dataclasses.dataclass(frozen=True)
class Config:
  name: str = "x"
  kind: Kind = Kind.A
  mode: Literal["on", 3] = "on"
  limit: float = math.inf
  folder: pathlib.Path = pathlib.Path("a")
  size: int | None = None
  number: int | float = 2
  pairs: tuple[tuple[str, float], ...] = (("w", 1.0),)
  span: tuple[int, int] = (1, 2)
  free: Any = "bf16"
  optim: Adam | Lion = Adam()
  ema: Stage | None = None
  stages: tuple[Stage, ...] = (Stage(1), Stage(2))

  def __post_init__(self):
    if not self.name:
      raise ValueError("name is empty")


VARIANTS = (
  Config(),
  Config(kind=Kind.B, mode=3, limit=-math.inf, size=4, number=2.5, optim=Lion(), ema=Stage(9)),
  Config(pairs=(), stages=(), folder=pathlib.Path("/tmp/y"), limit=1.0, free=3),
)


@pytest.mark.parametrize("config", VARIANTS)
def test_round_trip_through_strict_json(config):
  text = json.dumps(config_io.to_dict(config), allow_nan=False)
  assert config_io.from_dict(Config, json.loads(text)) == config


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    ("nmae", "x", "nmae: Config has no such field; did you mean name?"),
    ("ema", {"stepz": 1}, "ema.stepz: Stage has no such field; did you mean steps?"),
    ("ema", {}, "ema.steps: absent; saved by another version"),
    ("ema", 3, "ema: expected a group of fields, found 3"),
    ("size", "many", "size: 'many' is not INT|none"),
    ("size", True, "size: True is not INT"),
    ("size", 1.0, "size: 1.0 is not INT"),
    ("mode", "off", "mode: 'off' is not {on,3}"),
    ("kind", "C", "kind: 'C' is not {A,B}"),
    ("span", [1], r"span: \[1\] is not INT INT"),
    ("pairs", [["w", "x"]], "pairs: "),
    ("name", "", "name is empty"),
  ],
)
def test_what_does_not_fit_is_named(path, value, message):
  data = config_io.to_dict(Config()) | {path: value}
  with pytest.raises(UsageError, match=f"^{message}"):
    config_io.from_dict(Config, data)


def test_an_absent_field_is_named():
  data = config_io.to_dict(Config())
  del data["size"], data["span"]
  with pytest.raises(UsageError, match="^size, span: absent"):
    config_io.from_dict(Config, data)


def test_a_value_that_json_cannot_hold_is_refused():
  with pytest.raises(UsageError, match="cannot save .* of type function"):
    config_io.to_dict(Config(free=lambda: 0))


def test_diff_lists_dotted_fields():
  a, b = Config(), Config(size=3, ema=Stage(9), optim=Adam(0.5))
  assert config_io.diff(a, a) == []
  assert config_io.diff(a, b) == [
    ("size", None, 3),
    ("optim.rate", 1e-3, 0.5),
    ("ema", None, "absent"),
    ("ema.steps", "absent", 9),
  ]
  assert config_io.diff(a, config_io.to_dict(b)) == config_io.diff(a, b)


def test_comments_are_the_help_of_a_field():
  @dataclasses.dataclass(frozen=True)
  class Base:
    """A docstring whose line looks like a field:

    alpha: nothing  # not this
    """

    alpha: int = 1  # beside
    # Above,
    # in two lines.
    beta: int = 2
    gamma: str = "# no comment"

    def method(self):
      alpha: int = 3
      return alpha

  @dataclasses.dataclass(frozen=True)
  class Child(Base):
    delta: int = 3  # own

  assert fields.field_comments(Child) == {
    "alpha": "beside",
    "beta": "Above, in two lines.",
    "delta": "own",
  }
