"""What a source of recordings offers, and the base of those that store encoded audio."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from pipelines import columns, decode
from pipelines.columns import Column
from pipelines.decode import Payload


@runtime_checkable
class Source(Protocol):
  """A numbered list of recordings with their lengths, and a way to read any stretch of any of them.

  Attributes:
    name: short, for messages and for ids of mixed sets.
    ids: name of each recording, unique and stable when the data moves to another disk.
    frames: i64[n], length in samples at the recording's own rate, all >= 1.
    rates: i32[n], Hz.
    labels: class of each recording (a name, or an integer), "" where unknown; None without labels.
    shards: i32[n], number of the shard that holds each recording, never falling; or None.

  A source may also have `skipped` (pairs of id and reason found while indexing), `lost` (how many
  more must be missing, which nothing names), `classes` (names that integer labels index),
  `targets` (in place of labels where a recording may have several: [n, classes], 0 to 1, anything
  that a list of rows can be taken from) and with it `judged` ([n, classes], 0 where nobody knows),
  `locate(i)` (payload and first sample), which saves a copy, `place(i)` (the file, for messages),
  and `in_memory`, True where reading opens no file: such sources alone need no TensorFlow.
  """

  name: str
  ids: Sequence[str]
  frames: np.ndarray
  rates: np.ndarray

  @property
  def labels(self) -> Sequence | np.ndarray | None: ...  # noqa: D102

  @property
  def shards(self) -> np.ndarray | None: ...  # noqa: D102

  def read(self, i: int, start: int, stop: int) -> tuple[np.ndarray, int]:
    """Samples [start, stop) of recording i, f32[samples, channels], and the rate in Hz."""
    ...


class EncodedSource:
  """A source over columns ids, frames, rates, reason and optionally labels and shards.

  Rows with a reason are unusable: they go to `skipped` and are numbered no more.
  """

  classes: Sequence[str] | None = None
  lost = 0

  def __init__(self, name: str, table: dict[str, Column]):
    reason = table["reason"]
    usable = np.diff(reason.ends, prepend=0) == 0
    bad = np.flatnonzero(~usable)
    self.name = name
    self.skipped = [(table["ids"][int(i)], reason[int(i)]) for i in bad]
    if len(bad):
      table = columns.take(table, usable)
    self.table = table
    self.ids: Sequence[str] = table["ids"]
    # Recordings of one origin are never split between training and the part held out.
    origins = table.get("origins")
    self.origins: Sequence[str] = self.ids if origins is None else origins
    self.frames: np.ndarray = table["frames"]
    self.rates: np.ndarray = table["rates"]
    labels = table.get("labels")
    self.labels: Sequence | None = labels if labels is not None and len(labels.blob) else None
    self.shards: np.ndarray | None = table.get("shards")

  def locate(self, i: int) -> tuple[Payload, int]:
    """The audio that holds recording i, and the recording's first sample in it."""
    raise NotImplementedError

  def place(self, i: int) -> str:
    """The file that holds recording i, for messages; the source's name where there is none."""
    del i
    return self.name

  def read(self, i: int, start: int, stop: int) -> tuple[np.ndarray, int]:
    """Samples [start, stop) of recording i, f32[samples, channels], and the rate in Hz."""
    payload, first = self.locate(i)
    return decode.read_span(payload, first + start, first + stop)
