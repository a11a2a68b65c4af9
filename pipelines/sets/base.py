"""What a labelled set for training offers, and the helpers its readers share."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pipelines.errors import DataError
from pipelines.sources import Source
from pipelines.sources.selected import SelectedSource, rows_of

# "classes": one class for each clip. "tags": any number of them, each yes or no.
Objective = Literal["classes", "tags"]


@dataclasses.dataclass(frozen=True)
class RecordingDevices:
  """Which device recorded what, of a set that several devices recorded.

  Attributes:
    names: of the devices, in the order of their numbers.
    main: the one that recorded most; impulse responses are for its clips.
    groups: names of devices by group, such as those that the training part lacks.
    of: the device that made the recording with this id.
  """

  names: tuple[str, ...]
  main: str
  groups: Mapping[str, tuple[str, ...]]
  of: Callable[[str], str]

  def numbers(self, ids: Iterable[str]) -> np.ndarray:
    """Number i32[n] of the device of each recording."""
    number = {name: i for i, name in enumerate(self.names)}
    return np.fromiter((number[self.of(name)] for name in ids), np.int32)


@dataclasses.dataclass(frozen=True)
class TrainingSet:
  """A labelled set, split as its publishers split it.

  Attributes:
    name: short.
    classes: names, in the order of the label numbers or of the columns of the targets.
    objective: whether clips have one class or tags.
    parts: sources by part; "train" and "test" are always there, "validation" where it is published.
    folds: what `fold` may be, where the set has folds, and `fold`, the one that is left out.
    devices: what recorded the clips, where the set says so.
    metric: the figure that papers report of the set, where it is not the first of its kind: such
      as "lwlrap".
  """

  name: str
  classes: tuple[str, ...]
  objective: Objective
  parts: Mapping[str, tuple[Source, ...]]
  folds: tuple[str, ...] = ()
  fold: str = ""
  devices: RecordingDevices | None = None
  metric: str = ""

  def part(self, name: str) -> tuple[Source, ...]:
    """The sources of a part; DataError names those that there are."""
    if name not in self.parts:
      raise DataError(f"{self.name} has no part {name!r}; it has {', '.join(self.parts)}")
    return self.parts[name]

  def heard(self, name: str) -> tuple[Source, ...]:
    """The sources of a part as they are heard once, recording by recording: pieces, not windows."""
    return tuple(getattr(source, "pieces", source) for source in self.part(name))


def folder_of(path: str, name: str, expected: str) -> Path:
  """The folder as a Path, or a DataError that says what was expected there."""
  folder = Path(path).expanduser()
  if not path or not folder.is_dir():
    raise DataError(f"{name}: no folder at {path!r}; give the folder that holds {expected}")
  return folder


def one_split(fold: str, name: str) -> None:
  """DataError where a fold is asked for of a set that has none."""
  if fold:
    raise DataError(f"{name}: fold {fold!r}; the set is published with one split")


def read_table(
  path: Path, columns: Sequence[str], name: str, delimiter: str = ","
) -> list[dict[str, str]]:
  """The rows of a CSV file that must have these columns, none of them empty.

  Raises DataError naming the file, and the line or the column.
  """
  if not path.is_file():
    raise DataError(f"{name}: no table at {str(path)!r}")
  try:
    with path.open(newline="", encoding="utf-8-sig") as file:
      reader = csv.DictReader(file, delimiter=delimiter)
      missing = [column for column in columns if column not in (reader.fieldnames or ())]
      if missing:
        raise DataError(
          f"{name}: {str(path)!r} lacks the column {missing[0]!r}; it needs {', '.join(columns)}"
        )
      rows = list(reader)
  except (UnicodeDecodeError, csv.Error) as error:
    raise DataError(f"{name}: {str(path)!r} is no sound table ({error})") from None
  for line, row in enumerate(rows, start=2):
    for column in columns:
      if not (row[column] or "").strip():
        raise DataError(f"{name}: {str(path)!r} line {line}: {column} is empty")
  if not rows:
    raise DataError(f"{name}: {str(path)!r} has no rows")
  return rows


def read_rows(path: Path, name: str, skipinitialspace: bool = False) -> list[list[str]]:
  """The rows of a CSV file without a head; DataError naming the file where it is none."""
  try:
    with path.open(newline="", encoding="utf-8-sig") as file:
      return [row for row in csv.reader(file, skipinitialspace=skipinitialspace) if row]
  except OSError as error:
    raise DataError(f"{name}: {str(path)!r} cannot be read ({error.strerror})") from None
  except (UnicodeDecodeError, csv.Error) as error:
    raise DataError(f"{name}: {str(path)!r} is no sound table ({error})") from None


def read_lines(path: Path, name: str) -> list[str]:
  """The lines of a text file. Raises DataError where it cannot be read."""
  try:
    return path.read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
    raise DataError(f"{name}: {str(path)!r} cannot be read ({reason})") from None


def every_id(source: Source) -> list[str]:
  """Ids of all recordings that a source found, usable or not: damaged ones are not absent."""
  return [*map(str, source.ids), *(name for name, _ in getattr(source, "skipped", ()))]


def pick(
  source: Source,
  wanted: Sequence[str],
  labels: Sequence[str],
  classes: Sequence[str],
  name: str,
) -> SelectedSource:
  """The recordings with these ids, one class each; those that are absent are in `skipped`."""
  rows, missing = rows_of(source, wanted)
  found = np.flatnonzero(rows >= 0)
  if not len(found):
    raise DataError(
      f"{name}: none of its {len(wanted)} listed recordings is in {source.name} "
      f"(such as {wanted[0]})"
      if len(wanted)
      else f"{name}: its table lists no recording"
    )
  number = {label: i for i, label in enumerate(classes)}
  return SelectedSource(
    source,
    rows[found],
    name=name,
    labels=[number[labels[int(i)]] for i in found],
    classes=list(classes),
    skipped=missing,
  )
