"""Some recordings of another source, with labels from a table."""

from collections.abc import Sequence

import numpy as np

from pipelines import targets as tables
from pipelines.errors import DataError
from pipelines.sources.base import Source

ABSENT = "absent"  # why a listed recording cannot be used


class SelectedSource:
  """Rows of a source under ids, labels or tags of their own.

  Args:
    source: read from; its own labels are left behind.
    rows: i64[n], recordings of it, in the order they are to have.
    name: for messages and mixed sets.
    ids: of these recordings; none: the source's.
    labels: the class number of each where `classes` are given, else its name.
    targets: tags, [n, classes].
    judged: [n, classes], 0 where nobody judged a class; only with targets.
    classes: names that integer labels, or the columns of targets, stand for.
    skipped: (id, reason) of recordings that are listed but cannot be used.
  """

  def __init__(
    self,
    source: Source,
    rows: np.ndarray,
    *,
    name: str = "",
    ids: Sequence[str] | None = None,
    labels: Sequence | np.ndarray | None = None,
    targets=None,
    judged: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    skipped: Sequence[tuple[str, str]] = (),
  ):
    self.name = name or source.name
    self._source, self._rows = source, np.asarray(rows, np.int64)
    chosen = [source.ids[int(i)] for i in self._rows] if ids is None else list(ids)
    for what, values in (("ids", chosen), ("labels", labels), ("targets", targets)):
      if values is not None and len(values) != len(self._rows):
        raise DataError(f"{self.name}: {len(values)} {what} for {len(self._rows)} recordings")
    self.ids: Sequence[str] = chosen
    self.frames = np.asarray(source.frames)[self._rows]
    self.rates = np.asarray(source.rates)[self._rows]
    self.labels = labels
    self.classes = classes
    self.skipped = list(skipped)
    self.in_memory = getattr(source, "in_memory", False)
    self.lost = getattr(source, "lost", 0)
    origins = getattr(source, "origins", source.ids)
    self.origins = [str(origins[int(i)]) for i in self._rows]
    if targets is not None:
      self.targets = targets
    if judged is not None:
      self.judged = judged
    if hasattr(source, "locate"):
      locate = source.locate
      self.locate = lambda i: locate(int(self._rows[i]))
    if hasattr(source, "place"):
      place = source.place
      self.place = lambda i: place(int(self._rows[i]))

  @property
  def shards(self) -> np.ndarray | None:
    """Shard of each recording where the selection reads them in order."""
    shards = self._source.shards
    if shards is None:
      return None
    chosen = np.asarray(shards)[self._rows]
    return np.unique(chosen, return_inverse=True)[1] if np.all(np.diff(chosen) >= 0) else None

  def read(self, i: int, start: int, stop: int) -> tuple[np.ndarray, int]:
    """Samples [start, stop) of recording i, f32[samples, channels], and the rate in Hz."""
    return self._source.read(int(self._rows[i]), start, stop)

  def take(self, rows: np.ndarray, name: str = "") -> "SelectedSource":
    """Some of these recordings, with what is known of them."""
    rows = np.asarray(rows, np.int64)

    def of(values):
      return None if values is None else [values[int(i)] for i in rows]

    targets = getattr(self, "targets", None)
    judged = getattr(self, "judged", None)
    return SelectedSource(
      self._source,
      self._rows[rows],
      name=name or self.name,
      ids=of(self.ids),
      labels=of(self.labels),
      targets=None if targets is None else tables.take(targets, rows),
      judged=None if judged is None else judged[rows],
      classes=self.classes,
      skipped=self.skipped,
    )


def rows_of(source: Source, wanted: Sequence[str]) -> tuple[np.ndarray, list[tuple[str, str]]]:
  """(row of each wanted id in the source, -1 where it has none; (id, reason) of those)."""
  number = {str(name): i for i, name in enumerate(source.ids)}
  why = dict(getattr(source, "skipped", ()))
  rows = np.array([number.get(name, -1) for name in wanted], np.int64)
  missing = [(n, why.get(n, ABSENT)) for n, row in zip(wanted, rows, strict=True) if row < 0]
  return rows, missing
