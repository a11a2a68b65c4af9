"""A table of recordings: .csv, .tsv or .jsonl with a column `path` (or `filename`)."""

import collections
import csv
import io
import json
import math
import os
from collections.abc import Iterator

import numpy as np

from pipelines import files, index
from pipelines.columns import Column, PackedStrings
from pipelines.config import DataConfig
from pipelines.decode import Payload
from pipelines.errors import BadAudio, DataError
from pipelines.sources.base import EncodedSource

SUFFIXES = (".csv", ".tsv", ".jsonl")
_PATH_COLUMNS = ("path", "filename")
_COLUMNS = (*_PATH_COLUMNS, "id", "label", "start", "stop", "sample_rate", "split")

# More than any rate in Hz or position in seconds; sample counts stay within 64 bits.
_LARGEST = 1e9


class ManifestSource(EncodedSource):
  """The recordings that a table lists, one per row.

  Columns: path or filename (relative to the manifest's folder, or absolute); optional id (else the
  path, with "@START" for a part), label, start and stop (seconds; the recording is that part of the
  file), sample_rate, which must be the file's, and split. Other columns are left alone.

  Attributes: splits, the column of that name, "" where it is empty or absent.
  """

  def __init__(self, manifest: str, cfg: DataConfig):
    rows = list(_rows(manifest))
    if not rows:
      raise DataError(f"manifest {manifest} has no rows; give one recording per line")
    folder = os.path.dirname(manifest if files.is_remote(manifest) else os.path.abspath(manifest))
    names = [_path(manifest, line, row) for line, row in rows]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    of_file = np.array([number[name] for name in names], np.int64)
    paths = [os.path.join(folder, name) for name in number]
    scan = index.scan_files(manifest, paths, [_stat(p) for p in paths], cfg)
    self._paths = PackedStrings.pack(paths)
    super().__init__(os.path.basename(manifest), _table(manifest, rows, names, of_file, scan))
    self.splits: PackedStrings = self.table["splits"]

  def locate(self, i: int) -> tuple[Payload, int]:
    """The file of row i, and the first sample of its part."""
    path = self.place(i)
    payload = files.read_range(path, 0, files.stat(path).size) if files.is_remote(path) else path
    return payload, int(self.table["first"][i])

  def place(self, i: int) -> str:
    """The file of row i."""
    return self._paths[int(self.table["file"][i])]


def _rows(manifest: str) -> Iterator[tuple[int, dict]]:
  """(line number, columns) of each row."""
  suffix = os.path.splitext(manifest)[1].lower()
  try:
    with files.open_binary(manifest) as binary:
      text = binary.read().decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise DataError(f"manifest {manifest} is not UTF-8 text ({error.reason})") from None
  except BadAudio as error:  # a pipe, say
    raise DataError(f"manifest {error}") from None
  if suffix == ".jsonl":
    for line, item in enumerate(text.split("\n"), 1):
      if item.strip():
        yield line, _json_row(manifest, line, item)
    return
  try:
    yield from _table_rows(manifest, text, "\t" if suffix == ".tsv" else ",")
  except csv.Error as error:
    raise DataError(f"manifest {manifest} is no sound table: {error}") from None


def _table_rows(manifest: str, text: str, delimiter: str) -> Iterator[tuple[int, dict]]:
  reader = csv.reader(io.StringIO(text), delimiter=delimiter)
  head = next(reader, [])
  if not set(_PATH_COLUMNS) & set(head):
    found = ", ".join(head) or "none"
    raise DataError(f"manifest {manifest} has no column path or filename; its columns: {found}")
  for name in _COLUMNS:  # others, such as empty ones at the end, may repeat
    if head.count(name) > 1:
      raise DataError(f"manifest {manifest} has the column {name} twice; leave one")
  for cells in reader:
    if not cells:  # an empty line
      continue
    if len(cells) != len(head):
      raise DataError(
        f"{manifest}:{reader.line_num} has {len(cells)} cells, the head {len(head)}; "
        "write one cell per column, empty where nothing is known"
      )
    yield reader.line_num, dict(zip(head, cells, strict=True))


def _json_row(manifest: str, line: int, text: str) -> dict:
  try:
    row = json.loads(text)
  except (ValueError, RecursionError) as error:
    reason = getattr(error, "msg", "") or "a number too long, or lists too deep"
    raise DataError(f"{manifest}:{line} is not JSON: {reason}") from None
  if not isinstance(row, dict):
    raise DataError(f"{manifest}:{line} is not a JSON object; write one {{...}} per line")
  return row


def _path(manifest: str, line: int, row: dict) -> str:
  name = row.get("path") or row.get("filename")
  if isinstance(name, str):
    name = _text(manifest, line, name)
  if not isinstance(name, str) or not name:
    raise DataError(f"{manifest}:{line} names no file; fill the column path or filename")
  if "\0" in name:
    raise DataError(f"{manifest}:{line} names {name!r}, which no file can be called")
  return name


def _text(manifest: str, line: int, value: object) -> str:
  """A value as text that can be stored."""
  text = str(value)
  try:
    text.encode("utf-8", "surrogateescape")
  except UnicodeEncodeError:
    raise DataError(f"{manifest}:{line} holds {text!r}, which is not Unicode text") from None
  return text


def _number(manifest: str, line: int, row: dict, name: str) -> float | None:
  value = row.get(name)
  if value is None or value == "":
    return None
  try:
    number = float(value)
  except (TypeError, ValueError, OverflowError):
    number = math.nan
  if not 0 <= number <= _LARGEST:
    raise DataError(f"{manifest}:{line} has {name} {value!r}; give a number from 0 to {_LARGEST:g}")
  return number


def _table(manifest: str, rows, names, of_file, scan) -> dict[str, Column]:
  """Columns of the recordings, from the rows and the header scan of the files they name."""
  count = len(rows)
  first, frames = np.zeros(count, np.int64), np.zeros(count, np.int64)
  rates = scan["rates"][of_file]
  ids, labels, splits, reasons, seen = [], [], [], [], {}
  names_seen = collections.Counter(names)
  for i, (line, row) in enumerate(rows):
    start = _number(manifest, line, row, "start")
    stop = _number(manifest, line, row, "stop")
    rate = _number(manifest, line, row, "sample_rate")
    reason, length = scan["reason"][int(of_file[i])], int(scan["frames"][of_file[i]])
    if stop is not None and stop <= (start or 0.0):
      raise DataError(f"{manifest}:{line} has stop {stop:g} s not after start {start or 0:g} s")
    if rate is not None and not reason and rate != rates[i]:
      raise DataError(
        f"{manifest}:{line} says {names[i]} has sample_rate {rate:g} Hz, but the file has "
        f"{rates[i]} Hz; correct the manifest or leave the column out"
      )
    first[i] = round((start or 0.0) * int(rates[i]))
    last = length if stop is None else min(length, round(stop * int(rates[i])))
    frames[i] = max(0, last - first[i])
    if not reason and not frames[i]:
      reason = f"starts at {start or 0:g} s, the file ends at {length / rates[i]:g} s"
    part = "" if start is None and stop is None else f"@{start or 0:g}"
    ids.append(_text(manifest, line, row.get("id") or names[i] + part))
    if (before := seen.setdefault(ids[-1], line)) != line:
      raise DataError(
        f"{manifest}:{line} repeats the id {ids[-1]!r} of line {before}; ids are unique"
      )
    labels.append("" if row.get("label") is None else _text(manifest, line, row["label"]))
    splits.append("" if row.get("split") is None else _text(manifest, line, row["split"]))
    reasons.append(reason)
  return {
    "ids": PackedStrings.pack(ids),
    # Parts of one file are heard alike, so they are held out together.
    "origins": PackedStrings.pack(
      [n if names_seen[n] > 1 else i for n, i in zip(names, ids, strict=True)]
    ),
    "labels": PackedStrings.pack(labels),
    "splits": PackedStrings.pack(splits),
    "reason": PackedStrings.pack(reasons),
    "frames": frames,
    "rates": rates,
    "first": first,
    "file": of_file,
  }


def _stat(path: str) -> files.Stat | None:
  try:
    return files.stat(path)
  except OSError:
    return None
