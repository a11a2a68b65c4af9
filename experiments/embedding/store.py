"""Where embeddings go: a file for each recording, or one file for all scenes.

Both can be killed at any moment and go on: files appear whole or not at all, what is there counts
as done, and `settings.json` keeps embeddings of other settings out of the same place.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experiments.embedding.embedder import Embedding
from experiments.training.config_io import diff
from experiments.training.errors import UsageError
from experiments.training.metrics import write_json

SETTINGS, UNUSABLE = "settings.json", "unusable.json"
SINGLE = ".npz"  # --out with this ending means one file
PARTS = ".parts"
PART_SECONDS, PART_ROWS = 20.0, 4096


class Store(Protocol):
  """Takes embeddings as they are made, in any order."""

  def done(self, ids: Collection[str]) -> set[str]:
    """Those of `ids` that need no work any more."""

  def add(self, name: str, made: Embedding) -> None:
    """Takes one."""

  def save(self) -> None:
    """Puts on disk what was taken."""

  def finish(self, ids: Sequence[str], unusable: Mapping[str, str]) -> str:
    """Completes the result for `ids`, in this order, and says in a few words what it is."""


def open_store(out: str, settings: Mapping[str, Any]) -> Store:
  """The store at `out`: one file where it ends in .npz, else a folder.

  Raises UsageError where embeddings of other settings are kept there.
  """
  path = Path(out).expanduser()
  if path.suffix == SINGLE and not path.is_dir():
    return SingleFile(path, settings)
  if path.exists() and not path.is_dir():
    raise UsageError(f"--out {out}: is a file; name a folder, or a file that ends in {SINGLE}")
  return Folder(path, settings)


class Folder:
  """OUT/ID.npz for each recording: `scene`, and `timestamps` and `times_ms` if wanted.

  Each also holds `id` and `settings` (JSON), so that it can be read far from its folder.
  """

  def __init__(self, path: Path, settings: Mapping[str, Any]):
    self.path = path
    self.settings = json.dumps(settings)
    _claim(path, settings)

  def file(self, name: str) -> Path:
    """Where the embeddings of a recording are."""
    return self.path / (name + SINGLE)

  def done(self, ids: Collection[str]) -> set[str]:
    """Recordings that have a file. An empty one, as a power cut can leave, does not count."""
    return {name for name in ids if _size(self.file(name)) > 0}

  def add(self, name: str, made: Embedding) -> None:
    """Writes the file."""
    arrays = {field: x for field, x in made._asdict().items() if x is not None}
    write_npz(self.file(name), {**arrays, "id": name, "settings": self.settings})

  def save(self) -> None:
    """Nothing is held back."""

  def finish(self, ids: Sequence[str], unusable: Mapping[str, str]) -> str:
    """Lists the unusable recordings."""
    _list_unusable(self.path / UNUSABLE, unusable)
    return f"{self.path}: a file for each recording, ID{SINGLE}"


class SingleFile:
  """One file: `ids` [n], `scenes` f32[n, d] and `settings` (JSON).

  Until all is done, the scenes so far are kept in numbered parts in the folder FILE.parts.
  """

  def __init__(self, path: Path, settings: Mapping[str, Any]):
    if settings.get("timestamps") or "window_seconds" in settings:
      raise UsageError(
        f"--out {path}: one file holds scenes alone; with --timestamps name a folder"
      )
    self.path = path
    self.settings = json.dumps(settings)
    self.parts = path.with_name(path.name + PARTS)
    self.have: dict[str, np.ndarray] = {}
    self._new: dict[str, np.ndarray] = {}
    self._saved = time.monotonic()
    if path.is_file():
      ids, scenes, found = _read_scenes(path)
      _check_same(path, found, settings)
      self.have.update(zip(ids, scenes, strict=True))
    self._complete = set(self.have)
    if self.parts.is_dir() or not self.have:
      _claim(self.parts, settings)
    for part in sorted(self.parts.glob(f"*{SINGLE}")):
      ids, scenes, _ = _read_scenes(part)
      self.have.update(zip(ids, scenes, strict=True))

  def done(self, ids: Collection[str]) -> set[str]:
    """Recordings that are in the file or in a part."""
    return set(ids) & set(self.have)

  def add(self, name: str, made: Embedding) -> None:
    """Keeps the scene, and saves a part now and then."""
    self._new[name] = self.have[name] = made.scene
    if len(self._new) >= PART_ROWS or time.monotonic() - self._saved > PART_SECONDS:
      self.save()

  def save(self) -> None:
    """Writes what is new as the next part."""
    self._saved = time.monotonic()
    if self._new:
      _claim(self.parts, json.loads(self.settings))
      number = sum(1 for _ in self.parts.glob(f"*{SINGLE}"))
      self._write(self.parts / f"{number:06d}{SINGLE}", list(self._new))
      self._new = {}

  def finish(self, ids: Sequence[str], unusable: Mapping[str, str]) -> str:
    """Joins the parts to the file. Recordings that it held already stay, behind those asked for."""
    asked = dict.fromkeys(name for name in ids if name in self.have)
    rows = [*asked, *(name for name in self.have if name not in asked)]
    _list_unusable(self.path.with_name(f"{self.path.name}.{UNUSABLE}"), unusable)
    if set(rows) != self._complete:
      self._write(self.path, rows)
    for path in [*self.parts.glob(f"*{SINGLE}"), *self.parts.glob(".*"), self.parts / SETTINGS]:
      path.unlink(missing_ok=True)
    if self.parts.is_dir():
      self.parts.rmdir()
    if not rows:
      return f"{self.path}: not written, there is no embedding"
    return f"{self.path}: {len(rows):,} scenes of {len(self.have[rows[0]])} numbers"

  def _write(self, path: Path, names: Sequence[str]) -> None:
    scenes = np.stack([self.have[name] for name in names])
    write_npz(path, {"ids": np.array(names), "scenes": scenes, "settings": self.settings})


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
  """Writes an .npz whole or not at all; what a killed run left half written is written over."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.part")
  with temporary.open("wb") as file:
    np.savez(file, **arrays)
  os.replace(temporary, path)


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
  """Writes the settings into a folder, or compares them with those that are there."""
  path = folder / SETTINGS
  if path.is_file():
    try:
      found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
      raise UsageError(f"{path}: damaged; delete {folder} and start again") from None
    _check_same(folder, found, settings)
    return
  folder.mkdir(parents=True, exist_ok=True)
  write_json(path, settings)


def _check_same(where: Path, found: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
  rows = diff(dict(found), json.loads(json.dumps(settings)))
  if rows:
    told = ", ".join(f"{name} {_short(old)} (now {_short(new)})" for name, old, new in rows[:3])
    raise UsageError(
      f"--out {where}: holds embeddings of other settings: {told}; name another --out"
    )


def _short(value: Any) -> str:
  text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
  return text if len(text) <= 40 else text[:12] + "..."


def _read_scenes(path: Path) -> tuple[list[str], np.ndarray, dict[str, Any]]:
  try:
    with np.load(path, allow_pickle=False) as arrays:
      settings = json.loads(str(arrays["settings"]))
      return [str(name) for name in arrays["ids"]], arrays["scenes"], settings
  except (OSError, KeyError, ValueError, EOFError) as error:
    raise UsageError(f"--out {path}: is no file of ours ({error}); name another --out") from None


def _list_unusable(path: Path, unusable: Mapping[str, str]) -> None:
  if unusable:
    write_json(path, [{"recording": name, "reason": why} for name, why in unusable.items()])
  else:
    path.unlink(missing_ok=True)


def _size(path: Path) -> int:
  try:
    return path.stat().st_size
  except OSError:
    return -1
