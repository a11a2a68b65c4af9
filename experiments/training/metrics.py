"""What a run writes down about itself: a line of JSON per step, TensorBoard scalars, JSON files.

`metrics.jsonl` holds one object per line: `step` (steps done when it was measured), `part`
("train", "validation", ...) and the values. A pair (step, part) stands in it once, also after
resuming. Values that are not finite are text ("nan", "inf"), which `float` reads back.
"""

import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from experiments.training.errors import UsageError
from experiments.training.events import EventWriter
from experiments.training.whole_file import WholeFile

FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class MetricsWriter:
  """Appends to the metrics of the run in `folder`, which is resumed after `start_step` steps.

  Lines past `start_step` are dropped first, and so is a last line that a killed process left torn.
  Every line is handed to the system at once, so what was written survives `kill -9`; write the
  values of a step before its checkpoint, and a resumed run lacks none. Where `active` is false (the
  other processes of a pod) nothing is written.

  Raises OSError where the folder cannot be written.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    start_step: int = 0,
    tensorboard: bool = True,
    active: bool = True,
  ):
    self.folder = pathlib.Path(folder)
    self._file: WholeFile | None = None
    self._events: EventWriter | None = None
    if not active:
      return
    self.folder.mkdir(parents=True, exist_ok=True)
    path = self.folder / FILE
    drop_after(path, start_step)
    self._seen = {(row["step"], row["part"]) for row in read_metrics(path)}
    self._file = WholeFile(path)
    if tensorboard:
      self._events = EventWriter(self.folder / TENSORBOARD, start_step)

  def write(self, step: int, values: Mapping[str, float], part: str = "train") -> None:
    """Writes the values of one part after `step` steps.

    Raises ValueError if they stand there, and OSError if they cannot be written; they then go
    before the next ones.
    """
    if self._file is None:
      return
    if (step, part) in self._seen:
      raise ValueError(f"{FILE} holds the {part} values of step {step} already")
    self._seen.add((step, part))
    numbers = {name: float(value) for name, value in values.items()}
    row = {"step": step, "part": part} | {k: _plain(v) for k, v in numbers.items()}
    try:
      self._file.write((json.dumps(row, allow_nan=False) + "\n").encode())
    finally:
      if self._events is not None:
        self._events.scalars(step, {f"{part}/{name}": n for name, n in numbers.items()})

  def close(self) -> None:
    """Ends the files; writing afterwards is an error of the caller."""
    for file in (self._file, self._events):
      if file is not None:
        file.close()

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Every whole line of a metrics file, in the order written; a torn last line is passed over.

  Raises UsageError naming the line where one that is not the last holds no step and part.
  """
  return [row for row, _ in _rows(pathlib.Path(path))]


def drop_after(path: str | os.PathLike, step: int) -> int:
  """Takes lines past `step` and a torn last line out of a metrics file; returns how many.

  The file is replaced in one piece, so that a process killed here loses nothing that stays.
  """
  path = pathlib.Path(path)
  rows = list(_rows(path))
  kept = [text for row, text in rows if row["step"] <= step]
  whole = "".join(text + "\n" for text in kept)
  if path.exists() and path.read_bytes() != whole.encode():
    _replace(path, whole)
  return len(rows) - len(kept)


def _rows(path: pathlib.Path) -> Iterator[tuple[dict[str, Any], str]]:
  if not path.exists():
    return
  lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
  for number, text in enumerate(lines, 1):
    try:
      row = json.loads(text)
      if not isinstance(row["step"], int) or not isinstance(row["part"], str):
        raise ValueError(text)
    except (ValueError, KeyError, TypeError):
      if number == len(lines):  # text behind the last line break: nothing, or a torn line
        return
      raise UsageError(f"{path}: line {number} is damaged; remove it or start anew") from None
    if number == len(lines):  # complete but for its line break: not known to be whole
      return
    yield row, text


def _replace(path: pathlib.Path, text: str) -> None:
  part = path.with_name(path.name + ".part")
  part.write_text(text, encoding="utf-8")
  part.replace(path)


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes strict JSON, in one piece; numbers that are not finite are text, as in the metrics."""
  _replace(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
  """`value` for strict JSON."""
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  if hasattr(value, "item"):  # a scalar of NumPy or JAX
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def block(values: Mapping[str, Any], indent: str = "") -> str:
  """Names and values in two columns, sections indented under their name."""
  width = max((len(str(k)) for k, v in values.items() if not isinstance(v, Mapping)), default=0)
  lines = []
  for name, value in values.items():
    if isinstance(value, Mapping):
      lines += [f"{indent}{name}", block(value, indent + "  ")]
    else:
      plain = _plain(value)
      shown = f"{plain:.4g}" if isinstance(plain, float) else str(plain)
      lines.append(f"{indent}{name:<{width}}  {shown}")
  return "\n".join(lines)


class Late:
  """Holds the newest step's device scalars, so that reading never stalls the device.

  `push` takes the values of step n, just dispatched, and returns those of step n - 1, which the
  device has finished or is about to. The copies go through `jax.device_get`, which
  `jax_transfer_guard="disallow"` lets pass.
  """

  def __init__(self) -> None:
    self._held: tuple[int, Mapping[str, Any]] | None = None

  def push(self, step: int, values: Mapping[str, Any]) -> tuple[int, dict[str, float]] | None:
    """(step, values) that were pushed before, or None the first time."""
    for value in values.values():
      if isinstance(value, jax.Array):
        value.copy_to_host_async()
    ready = self.flush()
    self._held = (step, dict(values))
    return ready

  def flush(self) -> tuple[int, dict[str, float]] | None:
    """(step, values) that are still held, or None; waits for the device."""
    if self._held is None:
      return None
    (step, values), self._held = self._held, None
    return step, {name: float(value) for name, value in jax.device_get(values).items()}
