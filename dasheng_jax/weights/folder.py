"""Our own folder of converted weights, and folders as Hugging Face lays them out.

    FOLDER/config.json     what the model is; the part under "dasheng_jax" is ours
    FOLDER/README.md       the model card
    FOLDER/state/0, 1...   every array under our paths (orbax, in parts of 256 MB), or else
    FOLDER/model*.safetensors   every tensor under official names, in one file or in shards

One folder serves every family: `family` says whose configuration it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.checksum import checksum
from dasheng_jax.weights.config_json import shown
from dasheng_jax.weights.orbax_arrays import quiet, restore_arrays
from dasheng_jax.weights.record import OURS, checked, content_of, read_json
from dasheng_jax.weights.safetensors_file import INDEX, WHOLE, open_safetensors, open_sharded
from dasheng_jax.weights.table import flatten, unflatten
from dasheng_jax.weights.tensors import Tensor

CONFIG = "config.json"
CARD = "README.md"
STATE = "state"
# Everything that we write into a folder.
OWN_ENTRIES = re.compile(
  "|".join(map(re.escape, (CONFIG, CARD, STATE, WHOLE, INDEX)))
  + r"|model-\d{5}-of-\d{5}\.safetensors"
)
# Another format of the same weights, which takes PyTorch to read.
_PICKLED = "pytorch_model.bin"
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


class ArrayRecord(NamedTuple):
  """What config.json says of one of our arrays; part: number of the checkpoint that holds it."""

  shape: tuple[int, ...]
  dtype: str
  checksum: int
  part: int


def arrays_of(folder: Path, ours: Mapping[str, Any]) -> dict[str, ArrayRecord]:
  """The arrays that our part of config.json lists, by path; WeightsError for any other list."""
  listed = ours.get("arrays")
  if not isinstance(listed, Mapping) or not listed:
    raise WeightsError(f"{folder / CONFIG}: lists no arrays; convert the source again")
  found = {}
  for path, entry in listed.items():
    sound = isinstance(entry, list) and len(entry) == 4 and isinstance(entry[0], list)
    if not sound or not all(type(n) is int and n >= 0 for n in (*entry[0], *entry[2:])):
      raise WeightsError(
        f"{folder / CONFIG}: does not say shape, type, checksum and part of {shown(path)}; "
        "convert the source again"
      )
    found[path] = ArrayRecord(tuple(entry[0]), str(entry[1]), entry[2], entry[3])
  return found


def open_folder_tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
  """(tensors under the names in the files, notes) of a folder with one file or shards."""
  if (folder / INDEX).is_file():
    return open_sharded(folder / INDEX)
  if (folder / WHOLE).is_file():
    return open_safetensors(folder / WHOLE)
  instead = "fetch the folder again"
  if (folder / _PICKLED).is_file():
    instead = f"pass {folder / _PICKLED}"
  raise WeightsError(f"{folder}: holds neither {WHOLE} nor {INDEX}; {instead}")


def open_content(folder: Path) -> dict[str, Any]:
  """What a folder holds, laid out as in a .pt file; of our own arrays the record alone."""
  config = read_config(folder)
  several = [name for name in (STATE, INDEX, WHOLE) if (folder / name).exists()]
  if len(several) > 1:
    raise WeightsError(
      f"{folder}: holds both {several[0]} and {several[1]}, which may be two models; remove one"
    )
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
    with ocp.Checkpointer(handler) as writer, quiet():
      args = ocp.args.PyTreeSave(tree, save_args=pieces)
      writer.save((folder / STATE / str(number)).absolute(), args=args)
  return record


def read_state(
  folder: Path, wanted: Mapping, record: Mapping[str, ArrayRecord]
) -> dict[str, np.ndarray]:
  """The wanted arrays by path, on the host, each verified against the record's checksum.

  wanted: a tree of shapes. WeightsError names the first array that is not as recorded.
  """
  shapes = flatten(wanted)
  homes: dict[int, list[str]] = {}
  for path, leaf in shapes.items():
    if path not in record:
      raise WeightsError(f"{folder}: {CONFIG} lists no {path}; convert the source again")
    entry = record[path]
    if (entry.shape, entry.dtype) != (tuple(leaf.shape), str(leaf.dtype)):
      raise WeightsError(f"{folder}: its {path} is not that of the model that {CONFIG} names")
    homes.setdefault(entry.part, []).append(path)
  out: dict[str, np.ndarray] = {}
  for number, paths in sorted(homes.items()):
    arrays = _restored_part(folder / STATE / str(number), {path: shapes[path] for path in paths})
    for path in paths:
      if checksum(arrays[path]) != record[path].checksum:
        raise WeightsError(f"{folder / STATE}: {path} is damaged; convert the source again")
    out |= arrays
  return {path: out[path] for path in shapes}


def _restored_part(part: Path, wanted: Mapping[str, Any]) -> dict[str, np.ndarray]:
  try:
    return restore_arrays(part, wanted)
  except WeightsError as error:
    raise WeightsError(f"{part}: damaged ({error}); convert the source again") from None
