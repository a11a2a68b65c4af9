"""Where recordings come from: one small file per kind of source, and the table of kinds."""

import os
from collections.abc import Callable

from pipelines import files
from pipelines.config import DataConfig
from pipelines.decode import AUDIO_SUFFIXES
from pipelines.errors import DataError
from pipelines.sources import hdf5 as _hdf5
from pipelines.sources import manifest as _manifest
from pipelines.sources import tfds as _tfds
from pipelines.sources.base import EncodedSource, Source
from pipelines.sources.folder import FolderSource
from pipelines.sources.manifest import ManifestSource
from pipelines.sources.tar import TarSource
from pipelines.sources.tfrecord import TFRecordSource

__all__ = ["EncodedSource", "Source", "open_source"]

_SHARD_KINDS: dict[str, Callable] = {".tar": TarSource, "tfrecord": TFRecordSource}
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".zip")


def open_source(spec: str, cfg: DataConfig, seed: int = 0) -> Source:
  """Opens one entry of `DataConfig.source` and indexes it.

  Args:
    spec: "synthetic", "synthetic:CLIPS", "tfds:NAME", a folder, a manifest, an HDF5 file, or a
      shard pattern.
    cfg: for split, data_dir and workers.
    seed: of the synthetic corpus.

  Raises:
    DataError: nothing there, nothing usable in it, or of no known kind.
  """
  kind, _, rest = spec.partition(":")
  if kind == "synthetic":
    return _open_synthetic(spec, rest, cfg, seed)
  if spec.startswith(_tfds.PREFIX):
    return _tfds.open_tfds(rest, cfg)
  spec = spec if files.is_remote(spec) else os.path.expanduser(spec)
  if spec.lower().endswith(_manifest.SUFFIXES):
    if not files.exists(spec):
      raise DataError(f"data.source: no manifest {spec}{files.nearest(spec)}")
    return ManifestSource(spec, cfg)
  if spec.lower().endswith(_hdf5.SUFFIXES):
    return _hdf5.HDF5Source(spec, cfg)
  if files.is_dir(spec):
    return _open_folder(spec, cfg)
  if opener := _shard_kind(spec):
    paths = files.expand(spec)
    if not paths:
      raise DataError(f"data.source: nothing matches {spec}{files.nearest(os.path.dirname(spec))}")
    return opener(spec, paths, cfg)
  if spec.lower().endswith(_COMPRESSED):
    raise DataError(
      f"data.source {spec} is compressed, which allows no random reads; unpack it first"
    )
  if spec.lower().endswith(AUDIO_SUFFIXES) and files.exists(spec):
    raise DataError(f"data.source {spec} is one recording; give its folder, or list it in a .csv")
  if not files.exists(spec):
    raise DataError(f"data.source: no file or folder {spec}{files.nearest(spec)}")
  raise DataError(
    f"data.source {spec} is of no known kind; give a folder, a .csv/.tsv/.jsonl manifest, .tar or "
    ".tfrecord shards, an .hdf file, tfds:NAME or synthetic"
  )


def _open_folder(folder: str, cfg: DataConfig) -> Source:
  """A tree of audio files, or a folder of shards such as `write_shards` makes."""
  names = [n for n in files.list_dir(folder) if not n.endswith(".npz")]
  for part, opener in _SHARD_KINDS.items():
    shards = [os.path.join(folder, n) for n in names if part in n.lower() and _shard_kind(n)]
    if shards and not any(n.lower().endswith(AUDIO_SUFFIXES) for n in names):
      return opener(folder.rstrip("/"), shards, cfg)
  if files.is_remote(folder):
    raise DataError(f"{folder} holds no .tar or .tfrecord shards; make some with make_shards first")
  return FolderSource(folder, cfg)


def _shard_kind(spec: str) -> Callable | None:
  name = spec.lower()
  if name.endswith(_COMPRESSED):
    return None
  if name.endswith((".tar", ".tar}")):
    return TarSource
  return TFRecordSource if "tfrecord" in os.path.basename(name) else None


def _open_synthetic(spec: str, clips: str, cfg: DataConfig, seed: int) -> Source:
  from pipelines.synthetic import SyntheticSource

  if not clips:
    return SyntheticSource(seed=seed)
  if not clips.isdecimal() or int(clips) < 1:
    raise DataError(
      f"data.source {spec!r}: write synthetic, or synthetic:CLIPS such as synthetic:500"
    )
  return SyntheticSource(clips=int(clips), seed=seed)
