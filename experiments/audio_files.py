"""Recordings named on a command line: the list of files, and their samples at a wanted rate.

Long recordings are decoded and resampled block by block, so a day of audio needs no more memory
than a few minutes of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soxr
from jaxtyping import Float32

from experiments.training.errors import UsageError
from pipelines import decode, files
from pipelines.decode import AUDIO_SUFFIXES
from pipelines.errors import BadAudio

BLOCK_SECONDS = 120


def audio_paths(args: Sequence[str | os.PathLike]) -> list[Path]:
  """The recordings that the arguments name, each once, in the order of the arguments.

  A folder stands for every file below it with one of `AUDIO_SUFFIXES` (in any case), sorted by
  path; names that start with a dot are passed over, links are followed. A name that is no folder
  is taken as it is, whatever its suffix and whether or not it exists: reading tells.

  Raises UsageError for no argument at all, and for a folder without audio.
  """
  if not args:
    raise UsageError("name at least one audio file or folder")
  found: dict[Path, None] = {}
  for arg in args:
    path = Path(arg).expanduser()
    inside = list(_walk(path)) if path.is_dir() else [path]
    if not inside:
      kinds = " ".join(AUDIO_SUFFIXES)
      raise UsageError(f"folder {path} holds no audio; looked for {kinds} at any depth")
    found |= dict.fromkeys(inside)
  return list(found)


def _walk(root: Path) -> Iterator[Path]:
  found, seen = [], set()
  for folder, below, names in os.walk(root, followlinks=True):
    real = os.path.realpath(folder)
    if real in seen:  # a link to a parent must not loop
      below.clear()
      continue
    seen.add(real)
    below[:] = [name for name in below if not name.startswith(".")]
    found += [
      Path(folder, name)
      for name in names
      if not name.startswith(".") and name.lower().endswith(AUDIO_SUFFIXES)
    ]
  return iter(sorted(found))


def read_wave(path: str | os.PathLike, rate: int) -> Float32[np.ndarray, " s"]:
  """A whole recording of any format as mono f32[s] at `rate` Hz: the mean of its channels.

  Raises BadAudio, in one line that names the file, for one that is absent, empty, damaged, or
  not finite.
  """
  return np.concatenate(list(read_blocks(path, rate)))


def read_blocks(
  path: str | os.PathLike, rate: int, block_seconds: float = BLOCK_SECONDS
) -> Iterator[Float32[np.ndarray, " s"]]:
  """The same samples as `read_wave` in pieces of about `block_seconds`, none of them empty."""
  try:
    empty = True
    for block in resampled(_native(str(path), block_seconds), rate):
      empty = False
      yield block
    if empty:
      raise BadAudio("holds no samples")
  except BadAudio as error:
    absent = files.nearest(str(path)) if str(error) == "absent" else ""
    raise BadAudio(f"{path}: {error}{absent}") from None


def _native(path: str, block_seconds: float) -> Iterator[tuple[np.ndarray, int]]:
  """(mono samples, rate in Hz) at the file's own rate."""
  frames, rate = decode.header(path)
  size = max(1, round(block_seconds * rate))
  for start in range(0, frames, size):
    stop = min(frames, start + size)
    wave, found_rate = decode.read_span(path, start, stop)
    # Lossy codecs state their length to a block or two: a short last piece may be missing.
    if stop - start > decode.SHORT_FRAMES:
      decode.check_length(len(wave), stop - start, found_rate, rate)
    yield decode.mono(wave), rate


def resampled(blocks: Iterable[tuple[np.ndarray, int]], rate: int) -> Iterator[np.ndarray]:
  """Pieces of one wave, with its rate in Hz, as pieces at another rate; empty ones are left out."""
  stream = None
  for wave, found in blocks:
    if found != rate:
      stream = stream or soxr.ResampleStream(found, rate, 1, dtype="float32", quality="HQ")
      wave = stream.resample_chunk(np.ascontiguousarray(wave, np.float32))
    if len(wave):
      yield wave
  if stream is not None:
    rest = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    if len(rest):
      yield rest
