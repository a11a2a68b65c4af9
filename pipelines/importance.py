"""Drawing rare classes more often: weights from label frequencies, and draws without replacement.

Source: reference text of MN and DyMN, section 10.1.
"""

from collections.abc import Callable

import numpy as np

from pipelines.errors import DataError
from pipelines.order import hash64, stream

SCALE, OFFSET = 1000.0, 100.0


def label_weights(labels: np.ndarray, offset: float = OFFSET) -> np.ndarray:
  """Weights f64[clips] of clips with labels [clips, classes] of 0 and 1, over all sets together.

  A clip's is the sum over its classes of 1000 / (offset + clips with that class); 0 without labels.
  """
  counts = np.sum(labels, axis=0, dtype=np.int64)
  return labels.astype(np.float64) @ (SCALE / (offset + counts))


def weights_in_parts(
  labels_of: Callable[[np.ndarray], np.ndarray], clips: int, classes: int, part: int = 1 << 16
) -> np.ndarray:
  """`label_weights` of clips 0..clips-1 whose labels would not fit in memory at once.

  labels_of: clip numbers i64[b] -> 0 or 1 for each class, [b, classes].
  """
  parts = [np.arange(k, min(k + part, clips)) for k in range(0, clips, part)]
  counts = np.zeros(classes, np.int64)
  for rows in parts:
    counts += np.sum(labels_of(rows), axis=0, dtype=np.int64)
  rare = SCALE / (OFFSET + counts)
  return np.concatenate([labels_of(rows).astype(np.float64) @ rare for rows in parts])


def weighted_draw(weights: np.ndarray, count: int, seed: int, epoch: int) -> np.ndarray:
  """Clips i64[count] of one epoch, drawn without replacement with these weights, in drawn order.

  Each next clip is drawn from those that are left, in proportion to their weights. A pure function
  of its arguments: clip i draws -log(u_i) / weight_i, and the smallest come first (Efraimidis and
  Spirakis, 2006).

  Raises:
    DataError: fewer clips than `count` have a weight above 0, or a weight is negative or not
      finite.
  """
  if not np.all(np.isfinite(weights)) or np.any(weights < 0):
    raise DataError("sampling weights must be finite and at least 0")
  possible = np.flatnonzero(weights)
  if len(possible) < count:
    raise DataError(
      f"{count} clips per epoch are to be drawn without replacement, but only {len(possible)} have "
      "labels; lower data.samples_per_epoch"
    )
  bits = hash64(stream(seed, "importance"), epoch, possible)
  uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / (1 << 53)
  arrival = -np.log(uniform) / weights[possible]
  first = np.argpartition(arrival, count - 1)[:count] if 0 < count < len(possible) else slice(count)
  chosen, arrival = possible[first], arrival[first]
  return chosen[np.lexsort((chosen, arrival))]
