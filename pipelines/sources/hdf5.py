"""HDF5 files of encoded recordings, as AudioSet, FSD50K and OpenMIC are passed around.

    audio_name  [n] text, such as b"Y--PJHxphWEs.mp3"; the id is the name without ".mp3"
    mp3         [n] u8[bytes of each], an encoded file each (MP3, or anything that is decoded here)
    target      [n, ...], read by whoever knows the classes (`targets_in`); optional

Source: reference text of MN and DyMN, section 11.
"""

from __future__ import annotations

import os
import threading

import numpy as np

from pipelines import files, index
from pipelines.columns import Column, PackedStrings
from pipelines.config import DataConfig
from pipelines.decode import Payload
from pipelines.errors import BadAudio, DataError
from pipelines.sources.base import EncodedSource

SUFFIXES = (".hdf", ".hdf5", ".h5")
_NAMES, _AUDIO, _TARGETS = "audio_name", "mp3", "target"
_KIND = "hdf5"
_MOST_BYTES = 1 << 30  # of one recording, which is read as a whole


class HDF5Source(EncodedSource):
  """Recordings of one HDF5 file; see the head of this file for its layout.

  Raises:
    DataError: absent, damaged, or without `audio_name` and `mp3` of one length.
  """

  def __init__(self, path: str, cfg: DataConfig):
    self._path = path
    self._lock = threading.Lock()
    if files.is_remote(path):
      raise DataError(f"data.source {path}: HDF5 needs a local file; copy it to this machine")
    self._file = _open(path)
    try:
      names = _names(path, self._file)
    except DataError:
      self._file.close()  # so that it can be put right
      raise
    table = self._index(len(names), cfg)
    table["ids"] = PackedStrings.pack(names)
    super().__init__(os.path.basename(path), table)
    reasons = np.diff(table["reason"].ends, prepend=0)
    self.rows_in_file = np.flatnonzero(reasons == 0)

  def locate(self, i: int) -> tuple[Payload, int]:
    """The encoded file of recording i."""
    return self._encoded(int(self.rows_in_file[i])), 0

  def place(self, i: int) -> str:
    """The HDF5 file."""
    del i
    return self._path

  def targets_in(self) -> np.ndarray:
    """The table `target` as it is stored, a row for each recording; DataError without one."""
    if _TARGETS not in self._file:
      raise DataError(f"{self._path} holds no dataset {_TARGETS!r}, so its clips have no labels")
    with self._lock:
      try:
        table = np.asarray(_plain(self._path, self._file, _TARGETS)[()])
      except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{self._path}: {_TARGETS} cannot be read ({_short(error)})") from None
    if table.ndim != 2 or len(table) != len(_plain(self._path, self._file, _NAMES)):
      raise DataError(
        f"{self._path}: {_TARGETS} has shape {list(table.shape)}, not one row per recording"
      )
    return table[self.rows_in_file]

  def _encoded(self, row: int) -> bytes:
    with self._lock:  # of HDF5, which has one for itself but does not say so for ever
      try:
        data = np.asarray(self._file[_AUDIO][row])
      except (OSError, ValueError, KeyError, RuntimeError) as error:
        file = os.path.basename(self._path)
        raise BadAudio(f"cannot be read out of {file}: {_short(error)}") from None
    if data.dtype != np.uint8 or data.ndim != 1 or data.size > _MOST_BYTES:
      raise BadAudio(f"its entry in {_AUDIO} is {data.dtype}{list(data.shape)}, no encoded file")
    return data.tobytes()

  def _index(self, count: int, cfg: DataConfig) -> dict[str, Column]:
    """Length and rate of every recording, from the cache or by looking at each."""
    stat = files.stat(self._path)
    stamp = np.array([stat.size, stat.mtime, count], np.int64)
    key = os.path.abspath(self._path)
    found = index.load_cached(_KIND, key)
    if found is not None and np.array_equal(found.pop("stamp", ()), stamp) and _sound(found, count):
      return found
    frames, rates = np.zeros(count, np.int64), np.zeros(count, np.int32)
    reasons = [""] * count

    def scan(row: int) -> None:
      try:
        data = self._encoded(row)
        frames[row], rates[row], reasons[row] = index.header_or_reason(data, len(data))
      except BadAudio as error:
        reasons[row] = str(error)

    label = f"reading {os.path.basename(self._path)}"
    name = f"{self._path}, recording "
    index.run_threads(scan, range(count), cfg, label, "recordings", lambda row: f"{name}{row}")
    table = {"frames": frames, "rates": rates, "reason": PackedStrings.pack(reasons)}
    if index.at_rest(stat.mtime):
      index.save_cached(_KIND, key, {**table, "stamp": stamp})
    return table


def _open(path: str):
  import h5py  # costs a moment that most runs need not spend

  if not files.exists(path):
    raise DataError(f"data.source: no file {path}{files.nearest(path)}")
  try:
    return h5py.File(path, "r")
  except OSError as error:
    raise DataError(f"{path} is no sound HDF5 file ({_short(error)}); copy it again") from None


def _plain(path: str, file, name: str):
  """A dataset of the file itself: one that lies elsewhere could be any file of this machine."""
  import h5py

  link = file.get(name, getlink=True)
  if link is None:
    raise DataError(f"{path} holds no dataset {name!r}; it needs {_NAMES} and {_AUDIO}")
  entry = file[name] if isinstance(link, h5py.HardLink) else None
  if not isinstance(entry, h5py.Dataset) or entry.external or entry.is_virtual:
    raise DataError(f"{path}: {name!r} is no dataset of this very file; refused")
  return entry


def _names(path: str, file) -> list[str]:
  names, audio = _plain(path, file, _NAMES), _plain(path, file, _AUDIO)
  if names.ndim != 1 or audio.ndim != 1 or len(names) != len(audio) or not len(names):
    raise DataError(
      f"{path}: {_NAMES} {list(names.shape)} and {_AUDIO} {list(audio.shape)} must be lists of the "
      "same length"
    )
  try:
    raw = [name if isinstance(name, bytes) else str(name).encode() for name in names[()]]
  except (OSError, ValueError, TypeError) as error:
    raise DataError(f"{path}: {_NAMES} cannot be read ({_short(error)})") from None
  found = [name.decode("utf-8", "replace").removesuffix(".mp3") for name in raw]
  if len(set(found)) != len(found):
    twice = next(name for i, name in enumerate(found) if name in found[:i])
    raise DataError(f"{path}: the name {twice!r} is there twice")
  return found


def _sound(table: dict[str, Column], count: int) -> bool:
  if set(table) != {"frames", "rates", "reason"} or not isinstance(table["reason"], PackedStrings):
    return False
  return all(len(column) == count for column in table.values())


def _short(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0][:160]
