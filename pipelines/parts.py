"""Which recordings of a source belong to a part of a data set: held out, trained on, a share."""

import hashlib
from typing import NamedTuple

import numpy as np

from pipelines import crops
from pipelines.config import DataConfig
from pipelines.sources import Source


class Part(NamedTuple):
  """The recordings of one source that belong to a data set."""

  recordings: np.ndarray  # i64[n], numbers in the source
  ends: np.ndarray  # i64[n], clips up to and with each recording


def is_held_out(name: str, share: float) -> bool:
  """Whether the recording with this id belongs to the part held out."""
  return _digest(name) < share * 2.0**64


def _digest(name: str, key: bytes = b"") -> int:
  """A number of 64 bits, the same on every machine."""
  digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, key=key).digest()
  return int.from_bytes(digest, "little")


def select(source: Source, cfg: DataConfig, part: str) -> Part:
  """The recordings of a source that belong to "train", "holdout" or "all", and their clips."""
  chosen = np.arange(len(source.frames))
  if part != "all" and cfg.holdout:
    origins = getattr(source, "origins", source.ids)
    held = np.fromiter((is_held_out(str(n), cfg.holdout) for n in origins), bool, len(chosen))
    chosen = np.flatnonzero(held if part == "holdout" else ~held)
  if part == "train" and cfg.share < 1.0 and len(chosen):
    chosen = _share(source, chosen, cfg)
  counts = crops.clip_counts(
    np.asarray(source.frames)[chosen], np.asarray(source.rates)[chosen], cfg
  )
  return Part(chosen, np.cumsum(counts))


def _share(source: Source, chosen: np.ndarray, cfg: DataConfig) -> np.ndarray:
  """The recordings, of those chosen, whose audio is nearest to `cfg.share` of theirs; at least one.

  They are the first in an order that `share_seed` and the ids decide, so shares are nested. Pieces
  of one recording follow each other in it.
  """
  origins = getattr(source, "origins", source.ids)
  salt = f"share {cfg.share_seed}".encode()
  keys = [_digest(str(origins[int(i)]), key=salt) for i in chosen]
  order = np.argsort(np.array(keys, np.uint64), kind="stable")
  seconds = np.asarray(source.frames)[chosen[order]] / np.asarray(source.rates)[chosen[order]]
  ends = np.cumsum(seconds)
  nearest = int(np.argmin(np.abs(ends - cfg.share * ends[-1])))
  return np.sort(chosen[order[: nearest + 1]])


def why_empty(source: Source, cfg: DataConfig, part: str) -> str:
  """Why a part has no recording of a source, and the way out."""
  if not len(source.frames):
    skipped = getattr(source, "skipped", ())
    reason = f" (such as {skipped[0][0]}: {skipped[0][1]})" if skipped else ""
    return f"{source.name} has no usable recording{reason}; check data.source"
  return (
    f"data.holdout {cfg.holdout:g} leaves no recording of {source.name} ({len(source.frames)} in "
    f"all) for part {part!r}; choose another share"
  )
