"""Pieces of longer recordings, each with what lies beside it."""

from collections.abc import Sequence

import numpy as np

from pipelines import decode
from pipelines.errors import BadAudio, DataError
from pipelines.sources.base import Source


class JoinedSource:
  """The pieces of another source, longer by half a clip of their neighbours on either side.

      pieces of a recording   |    0    |    1    |    2    |           |    4    |    5    |
      recording 1                  |~~~~|---------|~~~~|
      recording 4                                                       |---------|~~~~|

  A clip at a random place of such a recording is a window whose middle lies in the piece, so ids,
  labels and whatever is known of the pieces hold for it: no other piece has more of it. Pieces are
  neighbours where their numbers follow each other; where one is missing, the next ones begin anew.

  Args:
    source: of the pieces.
    recordings: which recording each piece was cut from.
    numbers: of each piece in its recording.
    clip_seconds: length of a clip.
    name: for messages; none: that of the source.

  Attributes:
    pieces: the source; what is heard once and kept, such as logits of a teacher, is of these.

  Raises DataError where names or numbers do not belong to the pieces.
  """

  shards = None

  def __init__(
    self,
    source: Source,
    recordings: Sequence[str],
    numbers: Sequence[int],
    clip_seconds: float,
    name: str = "",
  ):
    count = len(source.frames)
    if len(recordings) != count or len(numbers) != count:
      raise DataError(
        f"{source.name}: {len(recordings)} names and {len(numbers)} numbers for {count} pieces"
      )
    self.pieces = source
    self.name = name or source.name
    self.ids, self.labels = source.ids, source.labels
    self.rates = np.asarray(source.rates)
    self.classes = getattr(source, "classes", None)
    self.skipped = list(getattr(source, "skipped", ()))
    self.lost = getattr(source, "lost", 0)
    self.in_memory = getattr(source, "in_memory", False)
    self.origins = list(recordings)
    if hasattr(source, "place"):
      self.place = source.place
    self._lay(recordings, np.asarray(numbers, np.int64), clip_seconds)

  def _lay(self, recordings: Sequence[str], numbers: np.ndarray, clip_seconds: float) -> None:
    """Lays all pieces on one line, in order; recordings are stretches of it."""
    frames = np.asarray(self.pieces.frames, np.int64)
    which = np.unique(np.asarray(recordings), return_inverse=True)[1]
    self._rows = np.lexsort((numbers, which))  # pieces as they lie on the line
    ends = np.cumsum(frames[self._rows])
    starts = ends - frames[self._rows]
    breaks = np.ones(len(frames), bool)
    kind, number, rate = (x[self._rows] for x in (which, numbers, self.rates))
    breaks[1:] = (np.diff(kind) != 0) | (np.diff(number) != 1) | (np.diff(rate) != 0)
    run = np.cumsum(breaks) - 1
    run_ends = np.append(starts[breaks][1:], ends[-1:])
    half = np.round(clip_seconds * rate).astype(np.int64) // 2
    low = np.maximum(starts - half, starts[breaks][run])
    high = np.minimum(ends + half, run_ends[run])
    self._starts, self._ends = starts, ends
    self._low, self.frames = np.empty_like(low), np.empty_like(low)
    self._low[self._rows], self.frames[self._rows] = low, high - low

  def read(self, i: int, start: int, stop: int) -> tuple[np.ndarray, int]:
    """Samples [start, stop) of recording i, f32[samples, 1], and the rate in Hz."""
    low = int(self._low[i])
    stop = low + min(stop, int(self.frames[i]))
    start = min(low + start, stop)
    waves = [np.zeros(0, np.float32)]
    at = int(np.searchsorted(self._ends, start, side="right"))
    while start < stop:
      first, end = int(self._starts[at]), min(stop, int(self._ends[at]))
      waves.append(self._piece(i, int(self._rows[at]), start - first, end - first))
      start, at = end, at + 1
    return np.concatenate(waves)[:, None], int(self.rates[i])

  def _piece(self, i: int, row: int, start: int, stop: int) -> np.ndarray:
    """Mono samples of a piece, f32[stop - start]; a lossy codec's last few may be zeros."""
    try:
      wave, rate = self.pieces.read(row, start, stop)
      decode.check_length(len(wave), stop - start, rate, int(self.rates[row]))
    except BadAudio as error:
      if row == i:
        raise
      raise BadAudio(f"its neighbour {self.ids[row]}: {error}") from None
    return np.pad(decode.mono(wave), (0, stop - start - len(wave)))
