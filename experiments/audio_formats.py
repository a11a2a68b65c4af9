"""Recordings in formats that are not read: they are named, with the way out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from experiments.audio_files import audio_paths
from experiments.training.errors import UsageError
from pipelines.decode import AUDIO_SUFFIXES

# What people keep recordings in and libsndfile does not read.
UNREAD_SUFFIXES = (".m4a", ".m4b", ".aac", ".mp4", ".wma", ".amr", ".ac3", ".ape", ".wv", ".webm")
CONVERT = "convert first, as with `ffmpeg -i IN{} OUT.flac`"


def is_unread(path: str | os.PathLike) -> bool:
  """Whether a name ends like a format that is known and not read."""
  return os.fspath(path).lower().endswith(UNREAD_SUFFIXES)


def paths_of(args: Sequence[str | os.PathLike]) -> list[Path]:
  """As `audio_paths`; its error for a folder without audio also tells what was passed over."""
  try:
    return audio_paths(args)
  except UsageError as error:
    note = passed_over(args)
    raise UsageError(f"{error}; {note}" if note else str(error)) from None


def passed_over(args: Sequence[str | os.PathLike]) -> str:
  """A line about the recordings below the folders of `args` that are not read; "" for none."""
  found = [
    name
    for arg in args
    for _, below, names in os.walk(Path(arg).expanduser())
    for name in _visible(below, names)
    if is_unread(name)
  ]
  kinds = sorted({Path(name).suffix.lower() for name in found})
  counted = f"{len(found)} {'file is' if len(found) == 1 else 'files are'}"
  return (
    f"{counted} passed over: {' '.join(kinds)} cannot be read; {CONVERT.format(kinds[0])}"
    if found
    else ""
  )


def _visible(below: list[str], names: list[str]) -> list[str]:
  """The names that do not start with a dot; folders that do are not entered."""
  below[:] = [name for name in below if not name.startswith(".")]
  return [name for name in names if not name.startswith(".")]


def explained(path: str | os.PathLike, problem: str) -> str:
  """What is wrong with a recording, and for a format that is not read the way out."""
  if not (is_unread(path) and Path(path).is_file()):
    return problem
  kinds = " ".join(AUDIO_SUFFIXES)
  return f"{problem}; read are {kinds}; {CONVERT.format(Path(path).suffix.lower())}"
