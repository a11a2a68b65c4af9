"""Names of recordings: what their embeddings are called, whatever machine the files lie on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.audio_formats import paths_of
from experiments.training.errors import UsageError


def recordings(args: Sequence[str]) -> dict[str, Path]:
  """Files by id, for every recording that the arguments name, folders searched at any depth.

  An id is the path inside the folder that was named, as in "rock/song.flac"; behind the folder's
  own name where there are several arguments; and for a single file its name. Raises UsageError for
  no recording at all and for two recordings of one id.
  """
  found: dict[str, Path] = {}
  if not args:
    raise UsageError("name at least one recording, or a folder of them")
  for arg in args:
    root = Path(arg).expanduser()
    prefix = Path(root.resolve().name) if root.is_dir() and len(args) > 1 else Path()
    for path in paths_of([arg]):
      inside = path.relative_to(root) if root.is_dir() else Path(path.name)
      name = (prefix / inside).as_posix()
      if name in found and found[name].resolve() != path.resolve():
        raise UsageError(
          f"{found[name]} and {path} would both be called {name}; name a folder above both"
        )
      found[name] = path
  return found
