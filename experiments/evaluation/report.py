"""Results as a markdown table for people, and as JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.training.errors import UsageError

SUFFIXES = (".json", ".csv", ".md")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table that also reads well as plain text: columns padded to equal width."""
  table = [list(header), *[[str(cell).replace("|", r"\|") for cell in row] for row in rows]]
  widths = [max(len(row[i]) for row in table) for i in range(len(header))]
  lines = [
    "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
    for row in table
  ]
  lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
  return "\n".join(lines)


def check_output(path: str | os.PathLike) -> Path:
  """The path of a report that `write_report` can write. Raises UsageError for another suffix."""
  path = Path(path)
  if path.suffix not in SUFFIXES:
    raise UsageError(f"--out {path!s}: end the name in {', '.join(SUFFIXES)}")
  return path


def write_report(path: str | os.PathLike, records: Sequence[Mapping[str, Any]], table: str) -> None:
  """Writes records as .json or .csv (nested mappings as `name.key`), or the table as .md."""
  path = check_output(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".json":
    path.write_text(json.dumps(list(records), indent=2, allow_nan=False) + "\n", encoding="utf-8")
  elif path.suffix == ".md":
    path.write_text(table + "\n", encoding="utf-8")
  else:
    flat = [_flat(record) for record in records]
    columns = list(dict.fromkeys(name for record in flat for name in record))
    with path.open("w", newline="", encoding="utf-8") as file:
      writer = csv.DictWriter(file, columns)
      writer.writeheader()
      writer.writerows(flat)


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  out: dict[str, Any] = {}
  for name, value in record.items():
    if isinstance(value, Mapping):
      out |= _flat(value, f"{prefix}{name}.")
    else:
      out[prefix + name] = value
  return out
