"""What stands beside a saved state: its run and its arrays, and how both are compared."""

import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from experiments.training.errors import RunError, UsageError


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


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """{"a/b": x} -> {"a": {"b": x}}; plain dicts outlive the classes of an optimiser library."""
  tree: dict[str, Any] = {}
  for path, leaf in arrays.items():
    *folders, name = path.split("/")
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[name] = leaf
  return tree


def _flat(value: Any, path: str = "") -> dict[str, Any]:
  if not isinstance(value, dict) or not value:
    return {path: value}
  return {
    k: v
    for name, x in value.items()
    for k, v in _flat(x, f"{path}.{name}" if path else name).items()
  }


def differences(
  saved: Mapping[str, Any], asked: Mapping[str, Any], may_differ: tuple[str, ...]
) -> list[str]:
  """One text per dotted field in which two runs differ, leaving out the fields that may."""
  old = _flat({key: saved.get(key) for key in asked})
  new = _flat(dict(asked))
  free = tuple(f"{prefix}." for prefix in may_differ)
  return [
    f"{field} {old.get(field, 'absent')!r} -> {new.get(field, 'absent')!r}"
    for field in sorted(old.keys() | new.keys())
    if old.get(field, "absent") != new.get(field, "absent") and not f"{field}.".startswith(free)
  ]


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
