"""Our own folder of converted weights, and folders as Hugging Face lays them out.

    FOLDER/config.json     what the model is; the part under "dasheng_jax" is ours
    FOLDER/README.md       the model card
    FOLDER/state/0, 1...   every array under our paths (orbax, in parts of 256 MB), or else
    FOLDER/model*.safetensors   every tensor under official names, in one file or in shards

One folder serves every family: `family` says whose configuration it holds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.checksum import checksum
from dasheng_jax.weights.orbax_arrays import restore_arrays
from dasheng_jax.weights.record import OURS, checked, content_of, read_json
from dasheng_jax.weights.safetensors_file import INDEX, WHOLE, open_safetensors, open_sharded
from dasheng_jax.weights.table import flatten, unflatten
from dasheng_jax.weights.tensors import Tensor

CONFIG = "config.json"
STATE = "state"
_PART_BYTES = 1 << 28
_CHUNK_BYTES = 1 << 26


def is_weights_folder(path: Path) -> bool:
  """Whether a folder holds converted or published weights, and not a training run."""
  # A checkpoint of a run holds "state" too, beside its "meta".
  if not path.is_dir() or (path / "meta").is_dir():
    return False
  return any((path / name).exists() for name in (WHOLE, INDEX, STATE, CONFIG))


def read_config(folder: Path) -> dict[str, Any]:
  """config.json; an empty dict where there is none. WeightsError where it is damaged."""
  return read_json(folder / CONFIG)


def our_part(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
  """What we wrote into a config.json; empty for those of others. WeightsError for newer formats."""
  return checked(config.get(OURS), folder / CONFIG)


def open_folder_tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
  """(tensors under the names in the files, notes) of a folder with one file or shards."""
  if (folder / INDEX).is_file():
    return open_sharded(folder / INDEX)
  if (folder / WHOLE).is_file():
    return open_safetensors(folder / WHOLE)
  raise WeightsError(f"{folder}: holds neither {WHOLE} nor {INDEX}; fetch the folder again")


def open_content(folder: Path) -> dict[str, Any]:
  """What a folder holds, laid out as in a .pt file; of our own arrays the record alone."""
  config = read_config(folder)
  if not (folder / STATE).is_dir():
    return content_of(*open_folder_tensors(folder), config)
  ours = our_part(folder, config)
  if not ours:
    raise WeightsError(f"{folder}: holds {STATE} without our {CONFIG}; convert the source again")
  return {OURS: ours}


def parts_of(sizes: Mapping[str, int]) -> list[list[str]]:
  """Paths in groups of at most `_PART_BYTES`, or one array; sizes in bytes, by path."""
  parts: list[list[str]] = [[]]
  room = _PART_BYTES
  for path, size in sizes.items():
    if parts[-1] and size > room:
      parts.append([])
      room = _PART_BYTES
    parts[-1].append(path)
    room -= size
  return parts


def write_state(folder: Path, parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, list]:
  """Arrays under our paths in folder/state; returns their record.

  Each part is an Orbax checkpoint of its own (folder/state/0, 1, ...): Orbax copies all that one
  checkpoint holds, and of a large model neither the copy nor the whole needs to be in memory. The
  record says of every array: shape, type, checksum, and the part that holds it.
  """
  import orbax.checkpoint as ocp  # takes seconds, which only those who need it should wait

  record: dict[str, list] = {}
  (folder / STATE).mkdir()
  for number, leaves in enumerate(parts):
    for path, leaf in leaves.items():
      record[path] = [list(leaf.shape), leaf.dtype.name, checksum(leaf), number]
    tree = unflatten(leaves)
    pieces = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), tree)
    # A file per chunk: in OCDBT's common files a part would wait in memory once more.
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
    with ocp.Checkpointer(handler) as writer, warnings.catch_warnings():
      warnings.simplefilter("ignore")
      args = ocp.args.PyTreeSave(tree, save_args=pieces)
      writer.save((folder / STATE / str(number)).absolute(), args=args)
  return record


def read_state(folder: Path, wanted: Mapping, record: Mapping[str, list]) -> dict[str, np.ndarray]:
  """The wanted arrays by path, on the host, each verified against the record's checksum.

  wanted: a tree of shapes. WeightsError names the first array that is not as recorded.
  """
  shapes = flatten(wanted)
  homes: dict[int, list[str]] = {}
  for path, leaf in shapes.items():
    entry = record.get(path)
    if not isinstance(entry, list) or len(entry) != 4 or not isinstance(entry[3], int):
      raise WeightsError(f"{folder}: {CONFIG} lists no {path}; convert the source again")
    if entry[:2] != [list(leaf.shape), str(leaf.dtype)]:
      raise WeightsError(f"{folder}: its {path} is not that of the model that {CONFIG} names")
    homes.setdefault(entry[3], []).append(path)
  out: dict[str, np.ndarray] = {}
  for number, paths in sorted(homes.items()):
    arrays = _restored_part(folder / STATE / str(number), {path: shapes[path] for path in paths})
    for path in paths:
      if checksum(arrays[path]) != record[path][2]:
        raise WeightsError(f"{folder / STATE}: {path} is damaged; convert the source again")
    out |= arrays
  return {path: out[path] for path in shapes}


def _restored_part(part: Path, wanted: Mapping[str, Any]) -> dict[str, np.ndarray]:
  try:
    return restore_arrays(part, wanted)
  except WeightsError as error:
    raise WeightsError(f"{part}: damaged ({error}); convert the source again") from None
