"""Lists the published checkpoints: file, source, sha256, size, licence, figure, whether cached.

    python -m experiments.models
    python -m experiments.models mn10_as dymn10_as dasheng_base
    python -m experiments.models --family dasheng --json

A name of this list stands for its file wherever weights are asked for. It is downloaded once, into
the folder that `DASHENG_JAX_CACHE` names or else `~/.cache/dasheng_jax/weights`.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from typing import Any, Literal
from urllib.parse import urlsplit

from experiments.training import cli
from experiments.training.errors import UsageError

Family = Literal["dasheng", "mn", "dymn", "cp_mobile", "cp_resnet"]
# What a figure measures, in percent.
UNITS = {
  "mAP": "mean average precision on AudioSet's evaluation set, in percent",
  "HEAR": "averages over the environment, speech and music tasks of HEAR, in percent",
}
# Columns whose text stands to the right.
RIGHT = ("size", "figure")


@dataclasses.dataclass(frozen=True)
class ModelsConfig:
  """Which checkpoints, and how to print them."""

  names: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  family: Family | None = None  # these alone
  json: bool = False  # print JSON
  csv: bool = False  # print CSV


@dataclasses.dataclass(frozen=True)
class Row:
  """A published checkpoint.

  bytes: of its file as published, or else of its numbers in float32 (bytes_computed). sha256: None
  where no one could check the file. figure: as its authors report it, in `unit`, a key of `UNITS`.
  cached: where the cache has it, None where it has not.
  """

  family: Family
  name: str
  file: str
  url: str
  hub: str
  sha256: str | None
  bytes: int
  bytes_computed: bool
  licence: str
  figure: tuple[float, ...]
  unit: str
  note: str
  cached: str | None


def main(cfg: ModelsConfig) -> None:
  """Prints an aligned markdown table, JSON or CSV, a row for each checkpoint."""
  if cfg.json and cfg.csv:
    raise UsageError("--json and --csv: choose one")
  rows = chosen(cfg)
  if cfg.json:
    print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
  elif cfg.csv:
    writer = csv.DictWriter(
      sys.stdout, [field.name for field in dataclasses.fields(Row)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) | {"figure": figure(row)} for row in rows)
  else:
    print(table(rows))
    print()
    print("\n".join(legend(rows)))


def chosen(cfg: ModelsConfig) -> list[Row]:
  """The rows asked for, in the order of the names, each once; all of them without a name."""
  from dasheng_jax.config import unknown_name

  rows = {row.name: row for row in every()}
  for name in cfg.names:
    if name not in rows:
      raise UsageError(unknown_name("published model", name, rows))
    if cfg.family not in (None, rows[name].family):
      raise UsageError(f"--family {cfg.family}: {name} is of {rows[name].family}; leave one out")
  wanted = dict.fromkeys(cfg.names or rows)
  return [rows[name] for name in wanted if cfg.family in (None, rows[name].family)]


def every() -> list[Row]:
  """All published checkpoints of both packages."""
  import dasheng_jax
  import mobile_jax
  from mobile_jax.families import family_of

  rows = [_row("dasheng", name, m, m.hear, "HEAR") for name, m in dasheng_jax.MODELS.items()]
  for name, model in mobile_jax.MODELS.items():
    family: Any = family_of(model.config)
    score = model.mean_average_precision
    rows.append(_row(family, name, model, () if score is None else (score,), "mAP", model.note))
  return rows


def _row(
  family: Family, name: str, model: Any, scores: tuple[float, ...], unit: str, note: str = ""
) -> Row:
  from dasheng_jax.weights import hub

  place = hub.place(model)
  return Row(
    family=family,
    name=name,
    file=model.file,
    url=model.url,
    hub=model.hub,
    sha256=model.sha256,
    bytes=4 * model.elements if model.size is None else model.size,
    bytes_computed=model.size is None,
    licence=model.licence,
    figure=scores,
    unit=unit if scores else "",
    note=note,
    cached=str(place) if place.exists() else None,
  )


def cells(row: Row) -> dict[str, str]:
  """A row of the table for people, by column."""
  address = urlsplit(row.url)
  also = f"also {row.hub} on Hugging Face" if row.hub else ""
  return {
    "family": row.family,
    "name": row.name,
    "file": row.file,
    "source": f"{address.hostname}{address.path.rpartition('/')[0]}",
    "sha256": row.sha256[:12] if row.sha256 else "-",
    "size": f"{'~' if row.bytes_computed else ''}{row.bytes / 1e6:,.1f} MB",
    "licence": row.licence,
    "figure": f"{figure(row)} {row.unit}" if row.figure else "-",
    "cached": "yes" if row.cached else "-",
    "note": "; ".join(filter(None, (row.note, also))),
  }


def figure(row: Row) -> str:
  """The reported figure as text; "" for none."""
  return " / ".join(f"{score:.1f}" for score in row.figure)


def table(rows: list[Row]) -> str:
  """A markdown table whose columns stand one below the other."""
  body = [cells(row) for row in rows]
  head = {column: column for column in body[0]}
  widths = {column: max(len(line[column]) for line in (head, *body)) for column in head}

  def text(line: dict[str, str]) -> str:
    placed = [
      line[column].rjust(width) if column in RIGHT else line[column].ljust(width)
      for column, width in widths.items()
    ]
    return f"| {' | '.join(placed)} |"

  rules = [
    "-" * (width + 1) + (":" if column in RIGHT else "-") for column, width in widths.items()
  ]
  return "\n".join([text(head), f"|{'|'.join(rules)}|", *map(text, body)])


def legend(rows: list[Row]) -> list[str]:
  """What the table leaves to be explained."""
  from dasheng_jax.weights import hub

  lines = [f"{unit}: {text}." for unit, text in UNITS.items() if any(r.unit == unit for r in rows)]
  if any(row.bytes_computed for row in rows):
    lines.append(
      "~: computed from the configuration, in float32; the file's own size is not known."
    )
  return [*lines, f"cached: in {hub.cache_folder()}."]


if __name__ == "__main__":
  cli.run_main(
    main,
    {"list": ModelsConfig()},
    prog="models",
    default="list",
    description=(__doc__ or "").split("\n")[0],
  )
