"""Which recording an embedding was made of: a short text that another recording will not have.

Names alone do not tell: two folders hold files of the same name, and files are edited. Neither do
times of change, which copying alters and unpacking may make equal.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Up to twice this a file is hashed whole. Of a longer one the first and the last so many bytes are,
# so that going on over hours-long recordings does not read them all once more: an edit that keeps
# the size of a file and both of its ends is not noticed.
END_BYTES = 1 << 20
UNKNOWN = ""  # of embeddings written before sources were kept
AT_ONCE = 4096


def source_of(path: str | os.PathLike) -> str:
  """Such as "640044:9f86d081884c7d65": bytes of the file, and 8 bytes of the blake2b of its ends.

  Raises OSError for a file that cannot be read.
  """
  with open(path, "rb") as file:
    size = os.fstat(file.fileno()).st_size
    digest = hashlib.blake2b(file.read(END_BYTES), digest_size=8)
    file.seek(max(END_BYTES, size - END_BYTES))
    digest.update(file.read())
  return f"{size}:{digest.hexdigest()}"


@dataclasses.dataclass(frozen=True)
class Found:
  """What a store has of the recordings asked for.

  done: ids that need no work. changed: ids whose embedding is of another recording. unknown: those
  of `done` that cannot be compared, because their source was not kept.
  """

  done: frozenset[str]
  changed: tuple[str, ...]
  unknown: tuple[str, ...]


def compare(recordings: Mapping[str, Path], kept: Callable[[str], str | None]) -> Found:
  """Compares recordings (id -> file) with `kept(id)`: a source, UNKNOWN, or None for nothing there.

  A file that is there and cannot be read is neither done nor changed: reading it tells what is
  wrong.
  """
  had = {name: source for name in recordings if (source := kept(name)) is not None}
  unknown = tuple(name for name, source in had.items() if source == UNKNOWN)
  known = {name: source for name, source in had.items() if source != UNKNOWN}
  now = dict(_sources({name: recordings[name] for name in known}))
  return Found(
    frozenset({*unknown, *(name for name in known if now[name] == known[name])}),
    tuple(name for name in known if now[name] not in (None, known[name])),
    unknown,
  )


def _sources(files: Mapping[str, Path]) -> Iterator[tuple[str, str | None]]:
  names = list(files)
  with ThreadPoolExecutor(min(4, os.cpu_count() or 1), "hash") as pool:
    for first in range(0, len(names), AT_ONCE):
      part = names[first : first + AT_ONCE]
      yield from zip(part, pool.map(_source_or_none, [files[n] for n in part]), strict=True)


def _source_or_none(path: Path) -> str | None:
  try:
    return source_of(path)
  except OSError:
    return None
