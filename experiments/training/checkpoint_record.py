"""What stands beside a saved state: its run and its arrays, and how both are compared."""

import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from experiments.training import config_io
from experiments.training.errors import RunError, UsageError

# Version of what stands in meta and of how the state is laid out; absent in the first.
FORMAT = 1
# How many differences between two runs are spelt out.
SHOWN = 6


class CheckpointError(RunError, OSError):
  """A checkpoint cannot be written, read or trusted; what was on disk before is left as it was."""


def read_meta(directory: str | os.PathLike[str], step: int) -> dict[str, Any]:
  """The json beside a saved state, read as data alone; CheckpointError if it cannot be."""
  path = absolute(directory) / str(step) / "meta" / "metadata"
  try:
    value = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise CheckpointError(
      f"checkpoint {step} in {directory} is damaged: {path.name}: {reason_of(error)}"
    ) from error
  if not isinstance(value, dict):
    raise CheckpointError(f"checkpoint {step} in {directory} is damaged: meta is no json object")
  return value


def absolute(directory: str | os.PathLike[str]) -> epath.Path:
  """An absolute path, or an address such as gs://bucket/run as it is."""
  text = os.fspath(directory)
  return epath.Path(text if "://" in text else os.path.abspath(text))


def steps_on_disk(directory: epath.Path) -> list[int]:
  """Finished checkpoints, oldest first; one under way has another name until it is complete."""
  if not directory.is_dir():
    return []
  return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())


def hide_unreadable_metrics(directory: epath.Path) -> list[int]:
  """Renames the metric files that are no json, which would stop orbax from opening the directory.

  Returns the steps: their arrays may be sound, they only cannot be ranked any more.
  """
  hidden = []
  for step in steps_on_disk(directory):
    folder = directory / str(step) / "metrics"
    try:
      if folder.exists():
        json.loads((folder / "metrics").read_text())
    except (OSError, ValueError):
      folder.rename(directory / str(step) / "metrics.damaged")
      hidden.append(step)
  return hidden


def refuse_newer(what: str, meta: Mapping[str, Any]) -> None:
  """UsageError for a checkpoint in a later format than ours."""
  version = meta.get("format", FORMAT)
  if not isinstance(version, int) or version > FORMAT:
    raise UsageError(
      f"{what} was written in format {version!r} by a newer version of this library, and this one "
      f"reads up to {FORMAT}; update it, or choose another directory"
    )


def differences(
  saved: Mapping[str, Any],
  asked: Mapping[str, Any],
  may_differ: tuple[str, ...],
  young: Mapping[str, Any] | None = None,
) -> list[str]:
  """One text per field in which two runs differ, leaving out the fields that may.

  A field that the saved run lacks is younger than it, and meant what it means in `young`, a record
  of defaults: a new field's default is what the library did before. A field of the configuration
  has the name of its flag; past the first few, differences are only counted.
  """
  free = tuple(f"{prefix}." for prefix in may_differ)
  rows = config_io.diff({key: saved.get(key) for key in asked}, dict(asked))
  since = {field: new for field, _, new in config_io.diff({}, dict(young or {}))}
  rows = [row for row in rows if row[1] != "absent" or since.get(row[0], "absent") != row[2]]
  lines = [
    f"{_flag(field)} {old!r} -> {new!r}"
    for field, old, new in sorted(rows, key=lambda row: row[0])
    if not f"{field}.".startswith(free)
  ]
  more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
  return lines[:SHOWN] + more


def _flag(field: str) -> str:
  name = field.removeprefix("config.")
  return name if name == field else f"--{name}"


def refuse_other_arrays(what: str, record: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
  """UsageError where the saved arrays are not those asked for, by name, shape and dtype."""

  def line(path: str) -> str:
    saved = f"saved {tuple(record[path][0])} {record[path][1]}" if path in record else "not saved"
    asked = (
      f"asked {tuple(wanted[path].shape)} {wanted[path].dtype}" if path in wanted else "not asked"
    )
    return f"{path} ({saved}, {asked})"

  def same(path: str) -> bool:
    if path not in record or path not in wanted:
      return False
    return record[path][:2] == [list(wanted[path].shape), str(wanted[path].dtype)]

  other = [path for path in sorted(record.keys() | wanted.keys()) if not same(path)]
  if other:
    raise UsageError(
      f"{what} holds another model: {len(other)} arrays differ, first {line(other[0])}"
    )


def reason_of(error: BaseException | None) -> str:
  """One line for what went wrong; a full disk is named as one whichever layer noticed it."""
  texts = []
  while error is not None:
    texts.append(" ".join(str(error).split()) or type(error).__name__)
    error = error.__cause__
  everything = " ".join(texts)
  for sign in ("No space left", "RESOURCE_EXHAUSTED", "File too large", "quota exceeded"):
    if sign.lower() in everything.lower():
      return "no space left on the disk; free some, or keep fewer checkpoints"
  return texts[0][:300] if texts else "unreadable on another host"
