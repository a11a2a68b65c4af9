"""Logits that a teacher gave to recordings, by the recordings' ids.

Ours: a folder with `teacher.json` (classes, models, what they heard) and, for each part that a
writer finished, `logits-00000.npy` f32[n, classes] and `ids-00000.npz`.
The authors' of MN and DyMN: one `.npy` f[n, classes] and a pickled dictionary from id to row.
The authors' of the scene models: one `.pt` with a tensor f[n, classes], and the set's meta.csv, in
which row i is of the recording in line i.

Source of the latter two: reference text of MN and DyMN, sections 10.1 and 11; that of the scene
models, section 6.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipelines import columns
from pipelines.columns import PackedStrings
from pipelines.errors import DataError
from pipelines.torch_tensor import read_tensor

RECORD = "teacher.json"
LOGITS, IDS = "logits-{:05d}.npy", "ids-{:05d}.npz"
_MOST_PICKLE_BYTES = 1 << 31


class Teacher:
  """Logits f32[n, classes] in one or several files, and the row of every id.

  Attributes:
    classes: how many.
    names: of the classes where the teacher's record tells them, else ().
    describe: one line.
  """

  def __init__(
    self, parts: Sequence[np.ndarray], rows: dict[str, int], names: Sequence[str], describe: str
  ):
    self._parts, self._rows = list(parts), rows
    self._first = np.cumsum([0, *(len(part) for part in parts)])
    self.classes, self.names, self.describe = parts[0].shape[1], tuple(names), describe

  def __len__(self) -> int:
    return int(self._first[-1])

  def rows_of(self, ids: Iterable[str]) -> np.ndarray:
    """Row i64 of every id, -1 where the teacher does not know it.

    An id counts as known by itself, by its file name without suffix, or by what follows the Y that
    AudioSet's files begin with.
    """
    return np.fromiter((self._row(name) for name in ids), np.int64)

  def _row(self, name: str) -> int:
    stem = PurePosixPath(name).name
    stem = stem.rsplit(".", 1)[0] if "." in stem else stem
    for known in (name, stem, stem[1:] if stem.startswith("Y") else stem):
      if (row := self._rows.get(known)) is not None:
        return row
    return -1

  def logits(self, rows: np.ndarray) -> np.ndarray:
    """f32[b, classes]; zeros for row -1."""
    out = np.zeros((len(rows), self.classes), np.float32)
    part = np.searchsorted(self._first, rows, side="right") - 1
    for number in np.unique(part[rows >= 0]):
      here = part == number
      out[here] = self._parts[number][rows[here] - self._first[number]]
    return out


def open_teacher(path: str, ids: str = "") -> Teacher:
  """A folder of ours, or the authors' `.npy` or `.pt` with what `ids` says of its rows.

  ids: a pickled dictionary from ids to rows, or a tab-separated `.csv` whose column filename lists
  the recordings in the order of the rows.

  Raises:
    DataError: absent, damaged, logits that are not finite, rows that do not exist, or a dictionary
      that is more than one: nothing in a pickle is ever called.
  """
  place = Path(path).expanduser()
  if place.is_dir():
    return _ours(place)
  if not place.is_file() or place.suffix not in (".npy", ".pt"):
    raise DataError(f"teacher {path!r}: no folder of stored logits and no .npy or .pt file")
  if not ids:
    raise DataError(
      f"teacher {path!r}: name its dictionary from ids to rows too, or its meta.csv (--teacher_ids)"
    )
  logits = _array(place) if place.suffix == ".npy" else _checked(read_tensor(place), place)
  listed = Path(ids).expanduser()
  if listed.suffix == ".csv":
    rows = _listed_rows(listed, len(logits))
  else:
    rows = read_dictionary(listed)
    _check_rows(rows, len(logits), ids)
  return Teacher([logits], rows, (), f"{place.name}, {len(rows):,} recordings")


def _ours(folder: Path) -> Teacher:
  record = read_record(folder)
  if record is None:
    raise DataError(f"teacher {str(folder)!r}: no {RECORD} in it; it holds no stored logits")
  names = list(record.get("classes", ()))
  parts: list[np.ndarray] = []
  rows: dict[str, int] = {}
  for number in range(int(record.get("parts", 0))):
    logits = _array(folder / LOGITS.format(number), empty=True)
    known = stored_ids(folder, number)
    if known is None or len(known) != len(logits):
      raise DataError(
        f"teacher: {str(folder / IDS.format(number))!r} is absent, damaged or foreign"
      )
    first = sum(len(part) for part in parts)
    rows |= {name: first + i for i, name in enumerate(known)}
    parts.append(logits)
  if not parts or any(part.shape[1] != len(names) for part in parts):
    raise DataError(
      f"teacher {str(folder)!r}: its {len(parts)} finished parts do not fit its {len(names)} "
      "classes; run the writer to its end"
    )
  describe = f"{', '.join(record.get('models', ()))}: {len(rows):,} recordings"
  return Teacher(parts, rows, names, describe)


def read_record(folder: Path) -> dict[str, Any] | None:
  """The record of a folder of ours, or None where there is none. DataError for a damaged one."""
  path = folder / RECORD
  if not path.is_file():
    return None
  try:
    record = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise DataError(f"teacher: {str(path)!r} is damaged ({error})") from None
  sound = isinstance(record, dict) and isinstance(record.get("parts", 0), int)
  if not sound or any(
    not isinstance(record.get(name, []), list) or not all(map(_is_text, record.get(name, [])))
    for name in ("classes", "models")
  ):
    raise DataError(f"teacher: {str(path)!r} is no record of stored logits")
  return record


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


def stored_ids(folder: Path, number: int) -> PackedStrings | None:
  """Ids of a finished part, or None."""
  table = columns.load(str(folder / IDS.format(number)))
  found = table.get("ids") if table else None
  return found if isinstance(found, PackedStrings) else None


def _array(path: Path, empty: bool = False) -> np.ndarray:
  """Logits on disk, mapped into memory: a table of two million rows is read row by row."""
  try:
    logits = np.load(path, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise DataError(f"teacher: {str(path)!r} is absent or no array ({error})") from None
  return _checked(logits, path, empty)


def _checked(logits: np.ndarray, path: Path, empty: bool = False) -> np.ndarray:
  """The logits, if they can be such."""
  if logits.ndim != 2 or logits.dtype.kind != "f" or not (len(logits) or empty):
    raise DataError(
      f"teacher: {str(path)!r} is {logits.dtype}{list(logits.shape)}; expected floats [n, classes]"
    )
  # A NaN would reach every weight in one step. Sums are quick, and tell.
  for first in range(0, len(logits), 1 << 16):
    if not np.isfinite(np.sum(logits[first : first + (1 << 16)], dtype=np.float64)):
      raise DataError(f"teacher: {str(path)!r} holds values that are not finite; write it anew")
  return logits


def _check_rows(rows: dict[str, int], count: int, ids: str) -> None:
  for name, row in rows.items():
    if not 0 <= row < count:
      raise DataError(f"teacher: {ids!r} gives {name!r} row {row}, and there are {count} rows")


def _listed_rows(path: Path, count: int) -> dict[str, int]:
  """{file name without suffix: row} of a table with one line for each of `count` rows."""
  from pipelines.sets.base import read_table  # only this form needs the readers of sets

  files = [row["filename"] for row in read_table(path, ["filename"], "teacher", "\t")]
  names = [PurePosixPath(file).stem for file in files]
  rows = {name: row for row, name in enumerate(names)}
  if len(names) != count or len(rows) != len(names):
    raise DataError(
      f"teacher: {str(path)!r} lists {len(names):,} recordings, {len(rows):,} of them different, "
      f"and there are {count:,} rows of logits; give the meta.csv that these were made by"
    )
  return rows


def read_dictionary(path: Path) -> dict[str, int]:
  """A pickled dictionary from text to whole numbers, of which nothing is executed.

  DataError for anything else, above all for a pickle that names a function or class.
  """
  if not path.is_file() or path.stat().st_size > _MOST_PICKLE_BYTES:
    raise DataError(f"teacher: {str(path)!r} is absent, or too large for a dictionary of ids")
  try:
    with path.open("rb") as file:
      content = _Plain(file).load()
  except _Refused as error:
    raise DataError(f"teacher: {str(path)!r} {error}; nothing of it was executed") from None
  except Exception as error:  # a damaged pickle can fail in any way
    raise DataError(f"teacher: {str(path)!r} is no sound pickle ({error})") from None
  plain = isinstance(content, dict) and all(
    isinstance(k, str) and isinstance(v, int) for k, v in content.items()
  )
  if not plain or not content:
    raise DataError(f"teacher: {str(path)!r} is no dictionary from ids to row numbers")
  return content


class _Refused(Exception):
  """A pickle wants more than plain values."""


class _Plain(pickle.Unpickler):
  """Unpickles numbers, text and containers; every look-up of a name is refused."""

  find_class: Callable[[str, str], Any]

  def find_class(self, module: str, name: str) -> Any:  # type: ignore[no-redef]
    raise _Refused(f"asks for {module}.{name}, which a dictionary of ids does not need")

  def persistent_load(self, pid: Any) -> Any:
    raise _Refused("refers to something outside of it")
