"""A tree of audio files."""

import os

from pipelines import files, index
from pipelines.columns import PackedStrings
from pipelines.config import DataConfig
from pipelines.decode import AUDIO_SUFFIXES, Payload
from pipelines.errors import DataError
from pipelines.sources.base import EncodedSource


class FolderSource(EncodedSource):
  """Every audio file below a folder, in order of path; ids are paths relative to it.

  Suffixes count in any case; names that start with a dot are passed over, links are followed.
  """

  def __init__(self, folder: str, cfg: DataConfig):
    self._root = os.path.abspath(folder)
    names, stats = _walk(self._root)
    if not names:
      kinds = " ".join(AUDIO_SUFFIXES)
      raise DataError(f"folder {folder} holds no audio; looked for {kinds} at any depth")
    paths = [os.path.join(self._root, name) for name in names]
    scan = index.scan_files(self._root, paths, stats, cfg)
    table = {k: scan[k] for k in ("frames", "rates", "reason")}
    table["ids"] = PackedStrings.pack(names)
    super().__init__(os.path.basename(self._root), table)

  def locate(self, i: int) -> tuple[Payload, int]:
    """Path of recording i, read from its first sample."""
    return self.place(i), 0

  def place(self, i: int) -> str:
    """Path of recording i."""
    return os.path.join(self._root, self.ids[i])


def _walk(root: str) -> tuple[list[str], list[files.Stat | None]]:
  found: list[tuple[str, files.Stat | None]] = []
  seen = set()  # real folders: a link to a parent must not loop

  def visit(folder: str, prefix: str) -> None:
    real = os.path.realpath(folder)
    if real in seen:
      return
    seen.add(real)
    try:
      entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
      raise DataError(f"folder {folder} cannot be read: {error.strerror}") from None
    for entry in entries:
      if entry.name.startswith("."):
        continue
      if entry.is_dir():
        visit(entry.path, f"{prefix}{entry.name}/")
      elif entry.name.lower().endswith(AUDIO_SUFFIXES):
        found.append((prefix + entry.name, _stat(entry)))

  visit(root, "")
  found.sort(key=lambda pair: pair[0])
  return [name for name, _ in found], [stat for _, stat in found]


def _stat(entry: os.DirEntry) -> files.Stat | None:
  try:
    return files.stat_of(entry.stat())
  except OSError:  # a dangling link
    return None
