"""Where embeddings go: a file for each recording, or one file for all scenes.

Both can be killed at any moment and go on: files appear whole or not at all, each embedding keeps
which recording it is of (see `source`), and `settings.json` keeps embeddings of other settings out
of the same place.
"""

from __future__ import annotations

import json
import os
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from experiments.embedding.embedder import Embedding
from experiments.embedding.source import UNKNOWN
from experiments.training.config_io import diff
from experiments.training.errors import UsageError
from experiments.training.metrics import write_json

SETTINGS, UNUSABLE = "settings.json", "unusable.json"
SINGLE = ".npz"  # --out with this ending means one file
PARTS = ".parts"
PART_SECONDS, PART_ROWS = 20.0, 4096
# What reading an .npz that is damaged or not ours can raise.
DAMAGED = (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


class Store(Protocol):
  """Takes embeddings as they are made, in any order."""

  def source(self, name: str) -> str | None:
    """Which recording the embedding of this name is of (`source_of`).

    UNKNOWN for one that was written before sources were kept, None where there is no embedding.
    """

  def add(self, name: str, made: Embedding, source: str) -> None:
    """Takes one, in place of another of this name."""

  def drop(self, name: str) -> None:
    """Forgets the embedding of this name, if there is one."""

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

  Each also holds `id`, `source` and `settings` (JSON), so that it can be read far from its folder.
  """

  def __init__(self, path: Path, settings: Mapping[str, Any]):
    self.path = path
    self.settings = json.dumps(settings)
    _claim(path, settings)

  def file(self, name: str) -> Path:
    """Where the embeddings of a recording are."""
    return self.path / (name + SINGLE)

  def source(self, name: str) -> str | None:
    """As the file has it. A damaged one, as a power cut can leave, does not count."""
    try:
      with np.load(self.file(name), allow_pickle=False) as arrays:
        return str(arrays["source"]) if "source" in arrays else UNKNOWN
    except DAMAGED:
      return None

  def add(self, name: str, made: Embedding, source: str) -> None:
    """Writes the file."""
    arrays = {field: x for field, x in made._asdict().items() if x is not None}
    more = {"id": name, "source": source, "settings": self.settings}
    write_npz(self.file(name), {**arrays, **more})

  def drop(self, name: str) -> None:
    """Deletes the file."""
    self.file(name).unlink(missing_ok=True)

  def save(self) -> None:
    """Nothing is held back."""

  def finish(self, ids: Sequence[str], unusable: Mapping[str, str]) -> str:
    """Lists the unusable recordings."""
    _list_unusable(self.path / UNUSABLE, unusable)
    return f"{self.path}: a file for each recording, ID{SINGLE}"


class _Row(NamedTuple):
  scene: np.ndarray
  source: str


class SingleFile:
  """One file: `ids` [n], `scenes` f32[n, d], `sources` [n] and `settings` (JSON).

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
    self.have: dict[str, _Row] = {}
    self._new: set[str] = set()
    self._saved = time.monotonic()
    if path.is_file():
      rows, found = _read_scenes(path)
      _check_same(path, found, settings)
      self.have |= rows
    if self.parts.is_dir() or not self.have:
      _claim(self.parts, settings)
    parts = sorted(self.parts.glob(f"*{SINGLE}"))
    for part in parts:
      self.have |= _read_scenes(part)[0]
    # Whether the file lacks something that is in `have`, or has what is not.
    self._behind = bool(parts)

  def source(self, name: str) -> str | None:
    """As the file or a part has it."""
    row = self.have.get(name)
    return row.source if row else None

  def drop(self, name: str) -> None:
    """Leaves it out of the file that `finish` writes."""
    self._behind |= self.have.pop(name, None) is not None
    self._new.discard(name)

  def add(self, name: str, made: Embedding, source: str) -> None:
    """Keeps the scene, and saves a part now and then."""
    self.have[name] = _Row(made.scene, source)
    self._new.add(name)
    self._behind = True
    if len(self._new) >= PART_ROWS or time.monotonic() - self._saved > PART_SECONDS:
      self.save()

  def save(self) -> None:
    """Writes what is new as the next part."""
    self._saved = time.monotonic()
    if self._new:
      _claim(self.parts, json.loads(self.settings))
      number = sum(1 for _ in self.parts.glob(f"*{SINGLE}"))
      self._write(self.parts / f"{number:06d}{SINGLE}", sorted(self._new))
      self._new = set()

  def finish(self, ids: Sequence[str], unusable: Mapping[str, str]) -> str:
    """Joins the parts to the file. Recordings that it held already stay, behind those asked for."""
    asked = dict.fromkeys(name for name in ids if name in self.have)
    rows = [*asked, *(name for name in self.have if name not in asked)]
    _list_unusable(self.path.with_name(f"{self.path.name}.{UNUSABLE}"), unusable)
    if self._behind and rows:
      self._write(self.path, rows)
    elif not rows:
      self.path.unlink(missing_ok=True)
    for path in [*self.parts.glob(f"*{SINGLE}"), *self.parts.glob(".*"), self.parts / SETTINGS]:
      path.unlink(missing_ok=True)
    if self.parts.is_dir():
      self.parts.rmdir()
    if not rows:
      return f"{self.path}: not written, there is no embedding"
    return f"{self.path}: {len(rows):,} scenes of {len(self.have[rows[0]].scene)} numbers"

  def _write(self, path: Path, names: Sequence[str]) -> None:
    rows = [self.have[name] for name in names]
    columns = {
      "ids": np.array(names),
      "scenes": np.stack([row.scene for row in rows]),
      "sources": np.array([row.source for row in rows]),
    }
    write_npz(path, {**columns, "settings": self.settings})


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


def _read_scenes(path: Path) -> tuple[dict[str, _Row], dict[str, Any]]:
  """(rows by id, settings)."""
  try:
    with np.load(path, allow_pickle=False) as arrays:
      settings = json.loads(str(arrays["settings"]))
      ids, scenes = arrays["ids"].tolist(), arrays["scenes"]
      sources = arrays["sources"].tolist() if "sources" in arrays else [UNKNOWN] * len(ids)
      return dict(zip(ids, map(_Row, scenes, sources), strict=True)), settings
  except DAMAGED as error:
    raise UsageError(
      f"--out {path}: is damaged or no file of ours ({error}); name another --out, or delete it"
    ) from None


def _list_unusable(path: Path, unusable: Mapping[str, str]) -> None:
  if unusable:
    write_json(path, [{"recording": name, "reason": why} for name, why in unusable.items()])
  else:
    path.unlink(missing_ok=True)
