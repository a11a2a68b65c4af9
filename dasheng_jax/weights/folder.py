"""Our own folder of converted weights, and folders as Hugging Face lays them out.

    FOLDER/config.json     what the model is; the part under "dasheng_jax" is ours
    FOLDER/README.md       the model card
    FOLDER/state           every array under our paths (orbax), or else
    FOLDER/model*.safetensors   every tensor under official names, in one file or in shards

One folder serves every family: `family` says whose configuration it holds.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.checksum import checksums
from dasheng_jax.weights.safetensors_file import INDEX, WHOLE, open_safetensors, open_sharded
from dasheng_jax.weights.table import flatten, unflatten
from dasheng_jax.weights.tensors import Tensor

CONFIG = "config.json"
STATE = "state"
# The key of config.json that is ours, and the version of what stands under it.
OURS = "dasheng_jax"
FORMAT = 1


def is_weights_folder(path: Path) -> bool:
  """Whether a folder holds converted or published weights, and not a training run."""
  # A checkpoint of a run holds "state" too, beside its "meta".
  if not path.is_dir() or (path / "meta").is_dir():
    return False
  return any((path / name).exists() for name in (WHOLE, INDEX, STATE, CONFIG))


def read_config(folder: Path) -> dict[str, Any]:
  """config.json; an empty dict where there is none. WeightsError where it is damaged."""
  path = folder / CONFIG
  if not path.is_file():
    return {}
  try:
    config = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise WeightsError(f"{path}: not readable as JSON ({error}); fetch it again") from None
  if not isinstance(config, dict):
    raise WeightsError(f"{path}: holds no group of named values; fetch it again")
  return config


def our_part(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
  """What we wrote into a config.json; empty for those of others. WeightsError for newer formats."""
  ours = config.get(OURS)
  if ours is None:
    return {}
  if not isinstance(ours, dict) or ours.get("format") != FORMAT:
    raise WeightsError(
      f"{folder / CONFIG}: written in another format of this library "
      f"({ours.get('format') if isinstance(ours, dict) else ours!r}, not {FORMAT}); "
      "convert the source again"
    )
  return ours


def open_folder_tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
  """(tensors under the names in the files, notes) of a folder with one file or shards."""
  if (folder / INDEX).is_file():
    return open_sharded(folder / INDEX)
  if (folder / WHOLE).is_file():
    return open_safetensors(folder / WHOLE)
  raise WeightsError(f"{folder}: holds neither {WHOLE} nor {INDEX}; fetch the folder again")


def record_of(leaves: Mapping[str, np.ndarray]) -> dict[str, list]:
  """[shape, dtype, checksum] of every array, one at a time on the device."""
  return {
    path: [list(leaf.shape), leaf.dtype.name, int(checksums({"x": leaf})["x"])]
    for path, leaf in leaves.items()
  }


def write_state(folder: Path, leaves: Mapping[str, np.ndarray]) -> None:
  """Every array under our paths, as one Orbax checkpoint in folder/state."""
  import orbax.checkpoint as ocp  # takes seconds, which only those who need it should wait

  with ocp.PyTreeCheckpointer() as writer, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    writer.save((folder / STATE).absolute(), unflatten(leaves))


def read_state(folder: Path, wanted: Mapping, record: Mapping[str, list]) -> dict[str, np.ndarray]:
  """The wanted arrays by path, on the host, each verified against the record's checksum.

  wanted: a tree of shapes. WeightsError names the first array that is not as recorded.
  """
  import orbax.checkpoint as ocp

  shapes = flatten(wanted)
  for path, leaf in shapes.items():
    if list(record.get(path, ()))[:2] != [list(leaf.shape), str(leaf.dtype)]:
      raise WeightsError(f"{folder}: its {path} is not that of the model that {CONFIG} names")
  item = unflatten(shapes)
  how = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), item)
  args = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
  try:
    with ocp.PyTreeCheckpointer() as reader, warnings.catch_warnings():
      warnings.simplefilter("ignore")
      arrays = flatten(reader.restore((folder / STATE).absolute(), args=args))
  except Exception as error:  # orbax and tensorstore raise many kinds for a bad file
    reason = " ".join((str(error) or type(error).__name__).split())[:200]
    raise WeightsError(f"{folder / STATE}: damaged ({reason}); convert the source again") from None
  out = {}
  for path, leaf in shapes.items():
    found = np.asarray(arrays[path]) if path in arrays else np.zeros(0)
    if found.shape != leaf.shape or int(checksums({"x": found})["x"]) != record[path][2]:
      raise WeightsError(f"{folder / STATE}: {path} is damaged; convert the source again")
    out[path] = found
  return out
