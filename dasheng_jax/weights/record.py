"""What this library says of a model in everything it writes: family, name, configuration.

    folder                config.json, under the key "dasheng_jax"
    .safetensors          the notes, under the same key
    .pt of Dasheng        beside "model" and "config", under the same key
    .pt of MN and DyMN    FILE.config.json beside it: the released code takes a bare state dict

Without it some settings would be lost on the way, since no tensor tells them. What lies beside a
`.pt` names the file that it belongs to by a digest, since either may be replaced alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.config_json import parsed_json, restored, shown
from dasheng_jax.weights.torch_archive import archive_digest

# The key that is ours, and the version of what stands under it.
OURS = "dasheng_jax"
FORMAT = 1
# The field of a record beside a `.pt` that tells which file it belongs to.
BELONGS_TO = "archive_sha256"


def make_record(family: str, cfg: Any, name: str = "") -> dict[str, Any]:
  """The record of a model; how it was computed is left out. name: published, or ""."""
  plain = dataclasses.replace(cfg, compute=type(cfg.compute)())
  return {"format": FORMAT, "family": family, "name": name, "config": dataclasses.asdict(plain)}


def as_note(record: Mapping[str, Any]) -> dict[str, str]:
  """A record as the notes of a .safetensors file hold it."""
  return {OURS: json.dumps(record)}


def checked(record: Any, where: str | Path) -> dict[str, Any]:
  """A record as it was read; empty for None. WeightsError for one that is not in our format."""
  if record is None:
    return {}
  if not isinstance(record, dict) or record.get("format") != FORMAT:
    raise WeightsError(
      f"{where}: written in another format of this library "
      f"({shown(record.get('format') if isinstance(record, dict) else record)}, not {FORMAT}); "
      "convert the source again"
    )
  return record


def beside(file: Path) -> Path:
  """Where the record of a file is that cannot carry it itself."""
  return file.with_name(f"{file.name}.config.json")


def bound_to(file: Path, record: Mapping[str, Any]) -> dict[str, Any]:
  """A record for `beside(file)`, once the file is written."""
  digest = archive_digest(file)
  return {**record, BELONGS_TO: digest} if digest else dict(record)


def read_record(file: Path, content: Mapping[str, Any]) -> dict[str, Any]:
  """The record of an opened file: what it carries, else what lies beside a .pt, else empty.

  WeightsError where what lies beside belongs to another file.
  """
  carried = content.get(OURS)
  if carried is not None:
    return checked(carried, file)
  # A folder has its config.json, which its reader has put into the content, and a .safetensors file
  # of ours has its notes.
  if not file.is_file() or file.suffix == ".safetensors":
    return {}
  place = beside(file)
  record = checked(read_json(place).get(OURS), place)
  if record and record.get(BELONGS_TO) != archive_digest(file):
    raise WeightsError(
      f"{place}: describes another file than this {file.name}; put the file back that it was "
      "written with, or delete it to have the model found out from the tensors"
    )
  return record


def read_json(path: Path) -> dict[str, Any]:
  """A JSON object; empty where there is no such file. WeightsError where it is damaged."""
  if not path.is_file():
    return {}
  try:
    content = parsed_json(path.read_text())
  except (OSError, ValueError) as error:
    raise WeightsError(f"{path}: not readable as JSON ({error}); fetch it again") from None
  if not isinstance(content, dict):
    raise WeightsError(f"{path}: holds no group of named values; fetch it again")
  return content


def content_of(
  tensors: Mapping[str, Any], notes: Mapping[str, str], config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """Tensors and what is told of them, laid out as in a .pt file.

  notes: of a .safetensors file. config: config.json of a folder, ours or Hugging Face's.
  """
  told = {name: _parsed(notes[name]) for name in ("config", OURS) if name in notes}
  config = config or {}
  if isinstance(config.get("encoder_kwargs"), Mapping):
    told.setdefault("config", config["encoder_kwargs"])
  if OURS in config:
    told[OURS] = config[OURS]
  return {"model": tensors, **told} if told else dict(tensors)


def _parsed(text: str) -> object:
  try:
    return parsed_json(text)
  except ValueError:
    return text


def config_in(record: Mapping[str, Any], defaults: Mapping[str, Any], where: str | Path) -> Any:
  """The configuration in a record of one of these families; None for an empty record.

  defaults: a configuration of every family that the caller knows. WeightsError for another family,
  or for values that make no configuration.
  """
  if not record:
    return None
  family = str(record.get("family"))
  if family not in defaults:
    raise WeightsError(
      f"{where}: holds a model of family {shown(family)}, not {' or '.join(defaults)}"
    )
  return restored(defaults[family], record.get("config"), f"{where}: {family}")
