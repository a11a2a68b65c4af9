"""A data set: sources, cut into clips and numbered through, with the part held out left aside."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pipelines import balance, importance
from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.ledger import Ledger
from pipelines.order import Order
from pipelines.parts import select, why_empty
from pipelines.sources import Source, open_source

PARTS = ("train", "holdout", "all")


class Clip(NamedTuple):
  """Where a clip comes from: source number, recording in it, which clip of the recording."""

  source: int
  recording: int
  number: int


class Dataset:
  """Clips 0..len-1 over all sources; `batches` decides their order.

  Attributes:
    cfg: the configuration.
    sources: the opened sources.
    skipped: (id, reason) of recordings that were found unusable while indexing.
    lost: recordings that must be missing besides, by the look of their damaged shards.
    classes: class names that labels index, or None where no source has labels.
    fields: what a batch says of its clips besides their waves: name -> function from clip numbers
      i64[b] (-1: padding) to one value or row each. "labels" is there where sources have any, and
      "judged" beside it; more may be added before the first batch.
    bad: recordings that proved unusable while reading, whoever read them.
    least_samples: with the crop "whole", of the shortest row, at `cfg.sample_rate`: zeros follow a
      recording that is shorter. May be set before the first batch.
  """

  def __init__(
    self,
    cfg: DataConfig,
    sources: Sequence[Source],
    part: str = "all",
    bad: Ledger | None = None,
  ):
    if part not in PARTS:
      raise DataError(f"part {part!r} is not one of {', '.join(PARTS)}")
    if part == "holdout" and not cfg.holdout:
      raise DataError("part 'holdout' is empty: set data.holdout to a share such as 0.05")
    if cfg.weights and len(cfg.weights) != len(sources):
      raise DataError(
        f"data.weights has {len(cfg.weights)} entries for {len(sources)} sources; "
        "give one per source or none"
      )
    self.cfg, self.sources, self.part = cfg, tuple(sources), part
    self.bad = Ledger() if bad is None else bad
    self.least_samples = 1
    self._prefixes = _prefixes(self.sources)
    self.skipped = [
      (prefix + name, reason)
      for prefix, source in zip(self._prefixes, self.sources, strict=True)
      for name, reason in getattr(source, "skipped", ())
    ]
    self.lost = sum(getattr(s, "lost", 0) for s in self.sources)
    self.recordings_found = len(self.skipped) + sum(len(s.frames) for s in self.sources) + self.lost
    check_share(self.skipped, self.recordings_found, cfg, self.lost)
    self._parts = [select(s, cfg, part) for s in self.sources]
    self.weights = cfg.weights
    self._drop_empty()
    self._first = np.cumsum([0] + [int(p.ends[-1]) for p in self._parts])
    self.tagged = _check_targets(self.sources)
    self.classes = _classes(self.sources)
    self.fields: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    if self.classes is not None:
      self.fields["labels"] = self.labels_of
    if self.tagged and hasattr(self.sources[0], "judged"):
      self.fields["judged"] = lambda examples: self._rows_of("judged", examples)

  def _drop_empty(self) -> None:
    """A source that is too small for a held-out recording has no say in validation."""
    full = [i for i, p in enumerate(self._parts) if len(p.recordings)]
    for source, chosen in zip(self.sources, self._parts, strict=True):
      if not len(chosen.recordings) and not (self.part == "holdout" and full):
        raise DataError(why_empty(source, self.cfg, self.part))
    self.sources = tuple(self.sources[i] for i in full)
    self._prefixes = [self._prefixes[i] for i in full]
    self._parts = [self._parts[i] for i in full]
    self.weights = tuple(self.weights[i] for i in full) if self.weights else ()

  def __len__(self) -> int:
    """Clips per epoch."""
    return int(self._first[-1])

  @property
  def recordings(self) -> int:
    """Recordings in this part."""
    return sum(len(p.recordings) for p in self._parts)

  def recordings_of(self, source: int) -> np.ndarray:
    """i64[n]: numbers of the recordings of one source that belong to this part."""
    return self._parts[source].recordings

  @functools.cached_property
  def hours(self) -> float:
    """Length of all recordings in this part."""
    return (
      sum(
        float(np.sum(s.frames[p.recordings] / s.rates[p.recordings]))
        for s, p in zip(self.sources, self._parts, strict=True)
      )
      / 3600.0
    )

  def clip(self, example: int) -> Clip:
    """Resolves a clip number."""
    source = int(np.searchsorted(self._first, example, side="right")) - 1
    part = self._parts[source]
    inside = example - int(self._first[source])
    row = int(np.searchsorted(part.ends, inside, side="right"))
    before = int(part.ends[row - 1]) if row else 0
    return Clip(source, int(part.recordings[row]), inside - before)

  def source_range(self, example: int) -> tuple[int, int]:
    """First clip and number of clips of the source that a clip belongs to."""
    source = int(np.searchsorted(self._first, example, side="right")) - 1
    return int(self._first[source]), int(self._first[source + 1] - self._first[source])

  def clip_id(self, clip: Clip) -> str:
    """The recording's id; "#1", "#2", ... follow it for clips after the first."""
    name = self.recording_id(clip)
    return f"{name}#{clip.number}" if clip.number else name

  def recording_id(self, clip: Clip) -> str:
    """The recording's id, after the name of its source where there are several."""
    return self._prefixes[clip.source] + str(self.sources[clip.source].ids[clip.recording])

  def place(self, clip: Clip) -> str:
    """The file that a clip is read from, and the recording's id where that is not its name."""
    source, name = self.sources[clip.source], self.recording_id(clip)
    path = source.place(clip.recording) if hasattr(source, "place") else source.name
    return path if path.endswith(name) else f"{path} ({name})"

  def label(self, clip: Clip) -> int:
    """Class number of a clip, -1 where unknown."""
    labels = self.sources[clip.source].labels
    if labels is None or self.classes is None:
      return -1
    name = _class_name(self.sources[clip.source], labels[clip.recording])
    return self._class_number.get(name, -1)

  def labels_of(self, examples: np.ndarray) -> np.ndarray:
    """Labels of clips i64[b]: class numbers i32[b], -1 where unknown, or targets f32[b, classes].

    Clip -1 is padding: unknown, or zeros.
    """
    if self.tagged:
      return self._rows_of("targets", examples)
    return np.array([self.label(self.clip(int(e))) if e >= 0 else -1 for e in examples], np.int32)

  def _rows_of(self, name: str, examples: np.ndarray) -> np.ndarray:
    """f32[b, classes]: rows of a table that every source has."""
    rows = np.zeros((len(examples), len(self.classes or ())), np.float32)
    owner = np.searchsorted(self._first, examples, side="right") - 1  # -1 for padding
    for number in np.unique(owner[examples >= 0]):
      here = owner == number
      part = self._parts[number]
      inside = examples[here] - self._first[number]
      recordings = part.recordings[np.searchsorted(part.ends, inside, side="right")]
      rows[here] = getattr(self.sources[number], name)[recordings]
    return rows

  @functools.cached_property
  def _class_number(self) -> dict[str, int]:
    return {name: i for i, name in enumerate(self.classes or ())}

  @functools.cached_property
  def ids(self) -> Sequence[str]:
    """Id of every clip, made when asked for."""
    return _Each(self, lambda clip: self.clip_id(clip))

  @functools.cached_property
  def labels(self) -> np.ndarray | None:
    """i32[len], class number of every clip, -1 where unknown; None without labels or with tags."""
    if self.classes is None or self.tagged:
      return None
    return np.array([self.label(self.clip(i)) for i in range(len(self))], np.int32)

  def order(self, seed: int) -> Order:
    """The order of training under a seed."""
    sizes = tuple(int(n) for n in np.diff(self._first))
    if self.cfg.order == "importance":
      count = min(self.cfg.samples_per_epoch, int(np.count_nonzero(self._importance)))
      if not count:
        raise DataError("data.order 'importance' draws clips with labels, and none has any")
      draw = functools.partial(importance.weighted_draw, self._importance, count, seed)
      return Order(sizes, seed=seed, draw=draw, drawn=count)
    if self.cfg.order == "balanced":
      every = balance.Balanced(self._by_class, len(self), seed)
      return Order(sizes, seed=seed, draw=every, drawn=len(self))
    shards = None
    if self.cfg.order == "shards":
      shards = tuple(self._shard_sizes(i) for i in range(len(self.sources)))
    return Order(sizes, self.weights, shards, seed)

  @functools.cached_property
  def _importance(self) -> np.ndarray:
    """Weight f64[len] of every clip, by how rare its classes are among all clips."""
    self._need_labels()
    return importance.weights_in_parts(self._marked, len(self), len(self.classes or ()))

  @functools.cached_property
  def _by_class(self) -> tuple[np.ndarray, np.ndarray]:
    """(clips, classes) of every label, class after class."""
    self._need_labels()
    return balance.clips_by_class(self._marked, len(self))

  def _need_labels(self) -> None:
    if self.classes is None:
      order = self.cfg.order
      raise DataError(f"data.order {order!r} goes by labels, and no source has any; use 'global'")

  def _marked(self, examples: np.ndarray) -> np.ndarray:
    """0 or 1 for each class of clips: f32[b, classes]."""
    labels = self.labels_of(examples)
    if self.tagged:
      return (labels > 0.5).astype(np.float32)
    rows = np.zeros((len(labels), len(self.classes or ())), np.float32)
    known = np.flatnonzero(labels >= 0)
    rows[known, labels[known]] = 1.0
    return rows

  def _shard_sizes(self, number: int) -> np.ndarray:
    source, part = self.sources[number], self._parts[number]
    if source.shards is None:
      raise DataError(
        f"data.order is 'shards' but {source.name} has no shards; use data.order 'global', or make "
        "shards of it with make_shards"
      )
    clips = np.diff(part.ends, prepend=0)
    sizes = np.bincount(source.shards[part.recordings], weights=clips).astype(np.int64)
    return sizes[sizes > 0]

  def describe(self) -> str:
    """One line: what and how much."""
    names = ", ".join(s.name for s in self.sources)
    length = "of all lengths" if self.cfg.crop == "whole" else f"of {self.cfg.crop_seconds:g} s"
    text = f"{names}: {len(self):,} clips {length}"
    text += f" from {self.recordings:,} recordings, {self.hours:,.1f} h"
    if self.part != "all" and self.cfg.holdout:
      text += f", part {self.part}"
    if self.part == "train" and self.cfg.share < 1:
      text += f", {100 * self.cfg.share:.3g} % of its audio"
    if self.classes is not None:
      text += f", {len(self.classes)} classes"
    if self.skipped:
      text += f", {len(self.skipped)} unusable (such as {self.skipped[0][0]}: {self.skipped[0][1]})"
    return text


def open_dataset(
  cfg: DataConfig,
  part: str = "train",
  seed: int = 0,
  sources: Sequence[Source] = (),
  bad: Ledger | None = None,
) -> Dataset:
  """Opens and indexes every source of a configuration.

  Args:
    cfg: the configuration.
    part: "train" (without the held-out recordings), "holdout" (those alone) or "all".
    seed: of the synthetic corpus. The part held out does not depend on it, so that runs with
      several seeds are validated on the same recordings.
    sources: open already, such as an `ArraySource`; they take the place of cfg.source.
    bad: takes note of what proves unusable while reading; several parts of a set may share it.

  Raises:
    DataError: missing, empty, or with more unusable recordings than cfg.max_bad_share.
  """
  opened = sources or [open_source(spec, cfg, seed) for spec in cfg.source]
  return Dataset(cfg, opened, part, bad)


def check_share(
  bad: Sequence[tuple[str, str]], recordings: int, cfg: DataConfig, lost: int = 0
) -> None:
  """Raises DataError when more than cfg.max_bad_share of the recordings are unusable.

  Args:
    bad: (id, reason) of each that is known by name.
    recordings: all that were found or are missing.
    cfg: for max_bad_share.
    lost: missing ones without a name; a reason in `bad` tells of them.
  """
  count = len(bad) + lost
  if not bad or count <= cfg.max_bad_share * recordings:
    return
  names = "; ".join(f"{name}: {reason}" for name, reason in bad[:3])
  more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
  raise DataError(
    f"{count} of {recordings} recordings are unusable, more than data.max_bad_share "
    f"{cfg.max_bad_share:g} allows ({names}{more}); repair or remove them, or raise the share"
  )


def _prefixes(sources: Sequence[Source]) -> list[str]:
  if len(sources) == 1:
    return [""]
  names = [s.name for s in sources]
  return [f"{n}/" if names.count(n) == 1 else f"{n}[{i}]/" for i, n in enumerate(names)]


def _class_name(source: Source, label) -> str:
  classes = getattr(source, "classes", None)
  if classes is None or label == "":
    return str(label)
  return str(classes[int(label)]) if str(label).lstrip("-").isdigit() and int(label) >= 0 else ""


def _check_targets(sources: Sequence[Source]) -> bool:
  """Whether the sources have targets in place of labels; all of them then name the same classes."""
  tagged = [getattr(s, "targets", None) is not None for s in sources]
  if not any(tagged):
    return False
  first = sources[0]
  for source, has in zip(sources, tagged, strict=True):
    classes = [list(getattr(s, "classes", None) or ()) for s in (first, source)]
    if not has or classes[0] != classes[1] or hasattr(source, "judged") != hasattr(first, "judged"):
      raise DataError(
        f"{first.name} and {source.name} cannot be mixed: where one has several tags for each "
        "clip, all must have, of the same classes"
      )
  return True


def _classes(sources: Sequence[Source]) -> tuple[str, ...] | None:
  """Class names over all sources: a source's own list, else sorted, numbers by value."""
  if _check_targets(sources):
    return tuple(str(name) for name in getattr(sources[0], "classes", ()))
  names: dict[str, None] = {}
  for source in sources:
    if source.labels is None:
      continue
    own = getattr(source, "classes", None)
    if own is None:
      found = {str(label) for label in source.labels} - {""}
      own = sorted(found, key=lambda n: (not n.isdecimal(), int(n) if n.isdecimal() else 0, n))
    names |= dict.fromkeys(str(n) for n in own)
  return tuple(names) if names else None


class _Each(Sequence):
  """A function of each clip, as a sequence."""

  def __init__(self, dataset: Dataset, of):
    self._dataset, self._of = dataset, of

  def __len__(self) -> int:
    return len(self._dataset)

  def __getitem__(self, i):
    if isinstance(i, slice):
      return [self[k] for k in range(*i.indices(len(self)))]
    return self._of(self._dataset.clip(range(len(self))[i]))
