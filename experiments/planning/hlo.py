"""Reading a compiled program: its instructions, and how often each of them runs.

The text of XLA (`compiled.as_text()`) is a list of computations; one is the entry, the others are
bodies of loops, branches and fusions. XLA's own cost analysis counts the body of a loop once,
however often it runs; here every computation carries its number of runs, and a loop whose number
of turns cannot be read is named instead of being taken for one turn.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

BITS = {
  **dict.fromkeys(("pred", "s8", "u8"), 8),
  **dict.fromkeys(("s16", "u16", "f16", "bf16"), 16),
  **dict.fromkeys(("s32", "u32", "f32"), 32),
  **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
  **dict.fromkeys(("s4", "u4", "f4e2m1fn"), 4),
  "c128": 128,
}
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,<=\s]*)\](\{[^}]*\})?")
_FREE = {"tuple", "get-tuple-element", "bitcast", "parameter", "constant", "after-all"}


@dataclass(frozen=True)
class Array:
  """One array of an instruction's result; `space` is its memory: 0 the device's, 1 on the chip."""

  dtype: str
  dims: tuple[int, ...]
  space: int = 0

  @property
  def size(self) -> int:
    """Elements."""
    return math.prod(self.dims)

  @property
  def bytes(self) -> int:
    """Bytes without the padding of a layout."""
    bits = BITS.get(self.dtype, 8 if self.dtype.startswith("f8") else 0)
    return math.ceil(self.size * bits / 8)


@dataclass(frozen=True)
class Instruction:
  """One line: `%name = result opcode(operands), attributes`."""

  name: str
  result: tuple[Array, ...]
  opcode: str
  operands: tuple[str, ...]
  text: str
  attributes: str
  root: bool = False

  def called(self, key: str) -> str | None:
    """The computation that an attribute names, e.g. `body`."""
    found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
    return found[1] if found else None

  @property
  def bytes(self) -> int:
    """Bytes of all results."""
    return sum(x.bytes for x in self.result)


@dataclass(frozen=True)
class Computation:
  """Instructions in order, by name."""

  name: str
  instructions: Mapping[str, Instruction]

  @property
  def root(self) -> Instruction:
    """The instruction whose result is the computation's."""
    return next(i for i in self.instructions.values() if i.root)

  @functools.cached_property
  def _parameters(self) -> dict[str, Instruction]:
    return {i.text: i for i in self.instructions.values() if i.opcode == "parameter"}

  @functools.cached_property
  def _users(self) -> dict[str, list[Instruction]]:
    found: dict[str, list[Instruction]] = {}
    for each in self.instructions.values():
      for name in dict.fromkeys(each.operands):
        found.setdefault(name, []).append(each)
    return found

  def parameter(self, number: int) -> Instruction | None:
    """The instruction that stands for a parameter."""
    return self._parameters.get(str(number))

  def users(self, instruction: Instruction) -> list[Instruction]:
    """The instructions that read a result."""
    return self._users.get(instruction.name, [])

  def operand(self, instruction: Instruction, number: int) -> Instruction | None:
    """The instruction that gives an operand."""
    if number >= len(instruction.operands):
      return None
    return self.instructions.get(instruction.operands[number])


@dataclass(frozen=True)
class Module:
  """A program. `runs` is how often each computation runs in one execution of the entry.

  `unknown` names loops whose turns could not be read: what they hold is counted once, and figures
  that need them are not to be believed.
  """

  computations: Mapping[str, Computation]
  entry: str
  runs: Mapping[str, float]
  turns: Mapping[str, int] = field(default_factory=dict)
  unknown: tuple[str, ...] = ()

  def executed(self) -> Iterator[tuple[Computation, Instruction, float]]:
    """Every instruction with the computation it stands in and how often it runs."""
    for name, count in self.runs.items():
      for instruction in self.computations[name].instructions.values():
        yield self.computations[name], instruction, count


@functools.lru_cache(maxsize=4)
def parse(text: str, count_loops: bool = True) -> Module:
  """The module of a program's text.

  count_loops: False counts the body of every loop once, as XLA's own analysis does.
  """
  computations: dict[str, Computation] = {}
  entry, name = "", ""
  lines: dict[str, Instruction] = {}
  for line in text.splitlines():
    if not name:
      head = re.match(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{\s*$", line)
      if head:
        name, lines = head[2], {}
        entry = name if head[1] else entry
    elif line.startswith("}"):
      computations[name] = Computation(name, lines)
      name = ""
    elif (instruction := _instruction(line)) is not None:
      lines[instruction.name] = instruction
  if not entry:
    raise ValueError("the text holds no entry computation")
  walk = _Walk(computations, count_loops)
  walk.visit(entry, 1.0, {})
  return Module(computations, entry, walk.runs, walk.turns, tuple(walk.unknown))


def _instruction(line: str) -> Instruction | None:
  head = re.match(r"\s*(ROOT )?%?([\w.\-]+) = ", line)
  if not head:
    return None
  rest = line[head.end() :]
  end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
  shape, rest = rest[:end], rest[end:].lstrip()
  open_at = rest.index("(")
  close_at = _closing(rest, open_at)
  inside = rest[open_at + 1 : close_at]
  return Instruction(
    head[2],
    arrays(shape),
    rest[:open_at],
    tuple(re.findall(r"%([\w.\-]+)", inside)),
    inside,
    rest[close_at + 1 :],
    bool(head[1]),
  )


def _closing(text: str, start: int) -> int:
  """Where the bracket at `start` closes."""
  depth = 0
  for at in range(start, len(text)):
    depth += (text[at] == "(") - (text[at] == ")")
    if not depth:
      return at
  raise ValueError(f"unbalanced brackets in {text[:80]!r}")


def arrays(shape: str) -> tuple[Array, ...]:
  """The arrays of a result's shape, tuples flattened."""
  found = []
  for dtype, dims, layout in _ARRAY.findall(shape):
    space = re.search(r"S\((\d+)\)", layout or "")
    sizes = tuple(int(d.strip("<= ")) for d in dims.split(",") if d.strip())
    found.append(Array(dtype, sizes, int(space[1]) if space else 0))
  return tuple(found)


class _Walk:
  """Counts runs from the entry on, with the values that loops carry from outside."""

  def __init__(self, computations: Mapping[str, Computation], count_loops: bool):
    self.computations, self.count_loops = computations, count_loops
    self.runs: dict[str, float] = {}
    self.turns: dict[str, int] = {}
    self.unknown: list[str] = []

  def visit(self, name: str, count: float, constants: Mapping[int, int]) -> None:
    """constants: elements of the computation's parameter whose value is known and never changes."""
    self.runs[name] = self.runs.get(name, 0.0) + count
    computation = self.computations[name]
    for each in computation.instructions.values():
      if each.opcode == "while":
        self._loop(computation, each, count, constants)
      elif each.opcode == "conditional":
        for branch in _branches(each):
          self.visit(branch, count, {})
      elif each.opcode in ("fusion", "call", "async-start"):
        called = each.called("calls") or each.called("to_apply")
        if called and called in self.computations:
          self.visit(called, count, {})

  def _loop(
    self, outer: Computation, loop: Instruction, count: float, constants: Mapping[int, int]
  ) -> None:
    body, condition = loop.called("body"), loop.called("condition")
    if body is None or condition is None:
      raise ValueError(f"loop {loop.name} names no body or condition")
    start = _carried(outer, loop, constants)
    end = self.computations[body].root
    kept = {
      i: value
      for i, value in start.items()
      if end.opcode == "tuple" and _passes(self.computations[body], end, i)
    }
    turns = self._turns(loop, start, kept, body, condition)
    if turns is None:
      self.unknown.append(loop.name)
    self.turns[loop.name] = turns or 1
    times = count * (turns or 1) if self.count_loops else count
    self.visit(body, times, kept)
    self.visit(condition, times, kept)

  def _turns(
    self,
    loop: Instruction,
    start: Mapping[int, int],
    kept: Mapping[int, int],
    body: str,
    condition: str,
  ) -> int | None:
    known = re.search(r"known_trip_count[^\d]*(\d+)", loop.attributes)
    if known:
      return int(known[1])
    test_in = self.computations[condition]
    test = test_in.root
    if test.opcode != "compare":
      return None
    left, right = (_follow(test_in, test_in.operand(test, i)) for i in (0, 1))
    limit, counter = _value(test_in, right, kept), _element(left)
    direction = re.search(r"direction=(\w\w)", test.attributes)
    if limit is None or counter is None or counter not in start or not direction:
      return None
    step = self._step(body, counter, kept)
    span = limit - start[counter]
    if not step or direction[1] not in ("LT", "GT", "NE", "LE", "GE"):
      return None
    span += {"LE": 1, "GE": -1}.get(direction[1], 0)
    return max(math.ceil(span / step), 0)

  def _step(self, body: str, counter: int, kept: Mapping[int, int]) -> int | None:
    inside = self.computations[body]
    end = _follow(inside, inside.operand(inside.root, counter))
    if end is None or end.opcode not in ("add", "subtract"):
      return None
    one, two = (_follow(inside, inside.operand(end, i)) for i in (0, 1))
    if _element(two) == counter and end.opcode == "add":
      one, two = two, one
    by = _value(inside, two, kept)
    if _element(one) != counter or by is None:
      # counters advance through others of equal value, as by `add(add(i, 1), 1)`
      return self._nested_step(inside, end, counter, kept)
    return by if end.opcode == "add" else -by

  def _nested_step(
    self, inside: Computation, end: Instruction, counter: int, kept: Mapping[int, int]
  ) -> int | None:
    total, at = 0, end
    while at is not None and at.opcode == "add":
      one, two = (_follow(inside, inside.operand(at, i)) for i in (0, 1))
      by = _value(inside, two, kept)
      if by is None:
        by, one = _value(inside, one, kept), two
      if by is None or one is None:
        return None
      total += by
      at = one
    return total if _element(at) == counter else None


def _branches(conditional: Instruction) -> list[str]:
  listed = re.search(r"branch_computations=\{([^}]*)\}", conditional.attributes)
  if listed:
    return re.findall(r"%?([\w.\-]+)", listed[1])
  both = (conditional.called("true_computation"), conditional.called("false_computation"))
  return [b for b in both if b]


def _carried(outer: Computation, loop: Instruction, constants: Mapping[int, int]) -> dict[int, int]:
  """Elements of a loop's initial value that are known numbers."""
  initial = outer.operand(loop, 0)
  if initial is None or initial.opcode != "tuple":
    return {}
  values = {}
  for i in range(len(initial.operands)):
    value = _value(outer, _follow(outer, outer.operand(initial, i)), constants)
    if value is not None:
      values[i] = value
  return values


def _passes(body: Computation, end: Instruction, index: int) -> bool:
  """Whether a loop's body hands an element on unchanged."""
  return _element(_follow(body, body.operand(end, index))) == index


def _follow(inside: Computation, at: Instruction | None) -> Instruction | None:
  while at is not None and at.opcode in ("copy", "bitcast", "convert"):
    at = inside.operand(at, 0)
  return at


def _element(at: Instruction | None) -> int | None:
  if at is None or at.opcode != "get-tuple-element":
    return None
  found = re.search(r"index=(\d+)", at.attributes)
  return int(found[1]) if found else None


def _value(inside: Computation, at: Instruction | None, constants: Mapping[int, int]) -> int | None:
  if at is None:
    return None
  if at.opcode == "constant":
    return int(at.text) if re.fullmatch(r"-?\d+", at.text.strip()) else None
  index = _element(at)
  source = inside.operand(at, 0) if index is not None else None
  if index is not None and source is not None and source.opcode == "parameter":
    return constants.get(index)
  return None


def is_free(instruction: Instruction) -> bool:
  """Whether an instruction moves nothing."""
  return instruction.opcode in _FREE
