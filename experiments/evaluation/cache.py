"""Embeddings of labelled sets on disk, so that an evaluation is done once.

    FOLDER/EMBEDDER/settings.json   what EMBEDDER is a digest of
    FOLDER/EMBEDDER/PACK.npz        keys [n], scenes f32[n, d], and frames of all clips in a row

EMBEDDER says how clips become embeddings: weights, settings, the code of the packages that do it,
versions of the libraries that decode and compute, and the kind of device. A key says which audio a
clip is. Whatever changes gives another name, so nothing that is found is stale. Packs are written
whole or not at all, and damaged ones are not read.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dasheng_jax.native.cache import cache_folder, mark_used, remove
from experiments.embedding.embedder import Embedding
from experiments.embedding.store import DAMAGED, write_npz
from experiments.training.metrics import write_json

AUTO, OFF = "auto", "off"  # values of --cache that are no folders
PACK_CLIPS = 1024
PACK_SECONDS = 30.0  # after which what was made is saved
UNUSED_SECONDS = 30 * 86_400
# What decides an embedding, below the root of the project.
CODE = (
  "dasheng_jax/**/*",
  "mobile_jax/**/*",
  "pipelines/**/*",
  "experiments/embedding/*",
  "experiments/evaluation/*.py",
)
LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "scipy", "soundfile", "soxr")


class Cache:
  """The embeddings of one embedder, below `folder`.

  Attributes:
    found, made: clips that were read, and that were added, since it was opened.
  """

  def __init__(self, folder: Path, settings: Mapping[str, Any]):
    described = {"embedder": dict(settings), **surroundings()}
    text = json.dumps(described, sort_keys=True)
    self.path = folder / hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    self.described = described
    self.found = self.made = 0
    self._new: dict[str, Embedding] = {}
    self._saved = time.monotonic()

  def read(self, keys: Sequence[str]) -> dict[str, Embedding]:
    """Embeddings by key, of those that are kept."""
    wanted = set(keys)
    kept: dict[str, Embedding] = {}
    for pack in sorted(self.path.glob("*.npz")):
      # A damaged pack may be mended by the run that finds its clips missing.
      with contextlib.suppress(*DAMAGED), np.load(pack, allow_pickle=False) as arrays:
        names = arrays["keys"].tolist()
        if not wanted.isdisjoint(names):
          kept |= {name: one for name, one in _unpacked(arrays, names) if name in wanted}
          mark_used(pack)
    self.found += sum(key in kept for key in keys)
    return kept

  def add(self, key: str, made: Embedding) -> None:
    """Takes one, and saves a pack now and then."""
    self._new[key] = made
    self.made += 1
    if len(self._new) >= PACK_CLIPS or time.monotonic() - self._saved > PACK_SECONDS:
      self.save()

  def save(self) -> None:
    """Writes what is new."""
    self._saved = time.monotonic()
    if not self._new:
      return
    if not (self.path / "settings.json").exists():
      self.path.mkdir(parents=True, exist_ok=True)
      write_json(self.path / "settings.json", self.described)
    names = sorted(self._new)
    digest = hashlib.blake2b("\n".join(names).encode(), digest_size=12).hexdigest()
    write_npz(self.path / f"{digest}.npz", _packed(names, [self._new[name] for name in names]))
    self._new = {}


def cache_root(flag: str) -> Path | None:
  """The folder that --cache names: the user's own for AUTO, None for OFF."""
  if flag == OFF:
    return None
  if flag == AUTO:
    folder = cache_folder("dasheng_jax") / "embeddings"
    _remove_unused(folder)
    return folder
  return Path(flag).expanduser()


@functools.cache
def surroundings() -> dict[str, Any]:
  """What decides embeddings beside weights and settings: code, libraries, kind of device."""
  root = Path(__file__).resolve().parents[2]
  digest = hashlib.blake2b(digest_size=12)
  for pattern in CODE:
    for path in sorted(root.glob(pattern)):
      if path.suffix in (".py", ".cc", ".h"):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
  versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
  return {"code": digest.hexdigest(), "libraries": versions, "backend": jax.default_backend()}


def _packed(names: Sequence[str], made: Sequence[Embedding]) -> dict[str, np.ndarray]:
  arrays = {"keys": np.array(names), "scenes": np.stack([one.scene for one in made])}
  frames = [one.timestamps for one in made if one.timestamps is not None]
  if frames:
    arrays |= {
      "counts": np.array([len(found) for found in frames]),
      "frames": np.concatenate(frames),
      "times_ms": np.concatenate([one.times_ms for one in made if one.times_ms is not None]),
    }
  return arrays


def _unpacked(arrays: Any, names: Sequence[str]) -> list[tuple[str, Embedding]]:
  scenes = arrays["scenes"]
  if "counts" not in arrays:
    return [(name, Embedding(scene)) for name, scene in zip(names, scenes, strict=True)]
  ends = np.cumsum(arrays["counts"])[:-1]
  rows = zip(
    names, scenes, np.split(arrays["frames"], ends), np.split(arrays["times_ms"], ends), strict=True
  )
  return [(name, Embedding(scene, frames, times)) for name, scene, frames, times in rows]


def _remove_unused(folder: Path) -> None:
  before = time.time() - UNUSED_SECONDS
  for pack in folder.glob("*/*.npz"):
    with contextlib.suppress(OSError):
      if pack.stat().st_mtime < before:
        remove(pack)
