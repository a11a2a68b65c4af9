"""Tags as text for people, and as JSON and CSV for programs."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from experiments.tagging.files import Tagged
from experiments.tagging.labels import Label, Tag, top_tags
from experiments.training.errors import UsageError

STDOUT = "-"
CSV_HEADER = ("file", "start", "end", "rank", "index", "mid", "label", "probability")
Record = dict[str, Any]


def clock(seconds: float, decimals: int = 1) -> str:
  """Such as 0:04.0, 12:30.5 or 1:02:03.0."""
  ticks = round(seconds * 10**decimals)
  whole, rest = divmod(ticks, 10**decimals)
  fraction = f".{rest:0{decimals}d}" if decimals else ""
  hours, minutes = whole // 3600, whole // 60 % 60
  head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
  return f"{head}:{whole % 60:02d}{fraction}"


def decimals_of(*seconds: float) -> int:
  """Decimals that tell times of this grid apart: at least 1, at most 3."""
  exact = (n for n in (1, 2) if all(abs(round(s, n) - s) < 1e-9 for s in seconds))
  return next(exact, 3)


def one_line(tags: Sequence[Tag]) -> str:
  """Such as "0.91 Speech, 0.05 Music"."""
  return ", ".join(f"{tag.probability:.2f} {tag.label.name}" for tag in tags)


def clip_text(file: Tagged, tags: Sequence[Tag]) -> str:
  """The tags of a whole recording, one below the other."""
  lines = [f"{file.path}, {file.seconds:.1f} s"]
  lines += [f"  {tag.probability:.3f}  {tag.label.name}" for tag in tags]
  return "\n".join(lines)


def windows_text(file: Tagged, labels: Sequence[Label], k: int, window: float, hop: float) -> str:
  """The tags of each window on a line of its own."""
  lines = [f"{file.path}, {file.seconds:.1f} s, windows of {window:g} s every {hop:g} s"]
  decimals = decimals_of(window, hop)
  width = len(clock(file.seconds, decimals))
  for (start, end), row in zip(file.spans, file.rows, strict=True):
    span = f"{clock(start, decimals):>{width}} - {clock(end, decimals):>{width}}"
    lines.append(f"  {span}  {one_line(top_tags(row, labels, k))}")
  return "\n".join(lines)


def tag_records(tags: Sequence[Tag]) -> list[Record]:
  """Tags for JSON, best first."""
  return [
    {"index": tag.number, "label": tag.label.name}
    | ({"mid": tag.label.mid} if tag.label.mid else {})
    | {"probability": round(tag.probability, 6)}
    for tag in tags
  ]


def windows_of(file: Tagged, labels: Sequence[Label], k: int) -> list[Record]:
  """Every window of a recording: start and end in seconds, and its tags."""
  return [
    window_record(start, end, row, labels, k)
    for (start, end), row in zip(file.spans, file.rows, strict=True)
  ]


def window_record(
  start: float, end: float, row: np.ndarray, labels: Sequence[Label], k: int
) -> Record:
  """One window: start and end in seconds, and its k best tags."""
  span = {"start": round(start, 6), "end": round(end, 6)}
  return span | {"tags": tag_records(top_tags(row, labels, k))}


class Output(Protocol):
  """Takes records, {"file": ..., "tags" or "windows" or "error": ...}, as they come."""

  def add(self, record: Record) -> None:
    """Writes or keeps a record."""


class JsonLines:
  """A line per record, flushed at once."""

  def __init__(self, file: TextIO):
    self._file = file

  def add(self, record: Record) -> None:
    """Writes the line."""
    self._file.write(json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n")
    self._file.flush()


class CsvRows:
  """A row per tag; a recording that is unusable has none."""

  def __init__(self, file: TextIO):
    self._file, self._rows = file, csv.writer(file)
    self._rows.writerow(CSV_HEADER)

  def add(self, record: Record) -> None:
    """Writes the rows of a recording, or of one window of a stream."""
    name = record.get("file", STDOUT)
    whole = {"start": 0.0, "end": record.get("seconds"), **record}
    for part in record.get("windows", [whole] if "tags" in record else []):
      for rank, tag in enumerate(part["tags"], 1):
        row = (tag["index"], tag.get("mid", ""), tag["label"], tag["probability"])
        self._rows.writerow((name, part["start"], part["end"], rank, *row))
    self._file.flush()


class _Collected:
  def __init__(self) -> None:
    self.records: list[Record] = []

  def add(self, record: Record) -> None:
    self.records.append(record)


@contextlib.contextmanager
def open_outputs(
  json_path: str, csv_path: str, about: Record, *, lines: bool = False
) -> Iterator[list[Output]]:
  """The outputs that were asked for, finished at the end of the block whatever happens in it.

  JSON is one document, `about` with the records under "files"; or a line per record for "-"
  (standard output), for names that end in .jsonl, and with `lines`. Raises UsageError for both
  on standard output.
  """
  if json_path == csv_path == STDOUT:
    raise UsageError("--json - and --csv - would mix on standard output; name a file for one")
  outputs: list[Output] = []
  with contextlib.ExitStack() as stack:
    if json_path and (lines or json_path == STDOUT or json_path.endswith(".jsonl")):
      outputs.append(JsonLines(stack.enter_context(_opened(json_path))))
    elif json_path:
      stack.enter_context(contextlib.closing(_opened(json_path + ".part"))).close()
      collected = _Collected()
      stack.callback(_write_document, json_path, about, collected.records)
      outputs.append(collected)
    if csv_path:
      outputs.append(CsvRows(stack.enter_context(_opened(csv_path))))
    yield outputs


def _opened(path: str) -> Any:
  """A new text file, its folder included, or standard output, which stays open."""
  if path == STDOUT:
    return contextlib.nullcontext(sys.stdout)
  Path(path).parent.mkdir(parents=True, exist_ok=True)
  return open(path, "w", encoding="utf-8", newline="")


def _write_document(path: str, about: Record, records: list[Record]) -> None:
  text = json.dumps({**about, "files": records}, indent=2, allow_nan=False, ensure_ascii=False)
  part = path + ".part"
  Path(part).write_text(text + "\n", encoding="utf-8")
  os.replace(part, path)
