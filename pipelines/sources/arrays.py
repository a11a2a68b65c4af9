"""Recordings that are in memory already, as NumPy arrays: no files and no TensorFlow."""

from collections.abc import Sequence

import numpy as np

from pipelines.errors import DataError

_RATES = (1_000, 384_000)  # Hz, as in DataConfig


class ArraySource:
  """Waves in memory as a source of recordings; open it with `open_dataset(cfg, sources=...)`.

  Order, crops and batches are those of any source: step n's batch is a pure function of (seed, n,
  data set). The arrays are neither copied nor changed, so leave them as they are while they are
  read; a memory-mapped file will do.

  Args:
    waves: f[n, s], or n arrays of any lengths, each f[s] or f[s, channels]; samples in [-1, 1].
    rate: Hz, of all recordings or of each; another rate than the run's is resampled when read.
    ids: unique names, by which the part held out is chosen; none: "000000", "000001", ...
    labels: class of each recording, a name or an integer from 0; "" where unknown.
    name: for messages, and for ids where several sources are mixed.

  Raises:
    DataError: a shape, type, rate, id or label that does not fit, or a sample that is not finite.
  """

  shards = None
  in_memory = True

  def __init__(
    self,
    waves: Sequence | np.ndarray,
    rate: int | Sequence[int] | np.ndarray,
    ids: Sequence[str] | None = None,
    labels: Sequence | np.ndarray | None = None,
    name: str = "arrays",
  ):
    if not hasattr(waves, "__len__") or np.ndim(waves[0] if len(waves) else 0.0) == 0:
      shape = f", got shape {waves.shape}" if isinstance(waves, np.ndarray) else ""
      raise DataError(f"{name}: waves must be [recordings, samples] or a list of arrays{shape}")
    self.name = name
    self._waves = [np.asarray(wave) for wave in waves]
    count = len(self._waves)
    self.ids: Sequence[str] = [f"{i:06d}" for i in range(count)] if ids is None else list(ids)
    self._check_ids(count)
    for number, wave in enumerate(self._waves):
      _check_wave(f"{name}: recording {self.ids[number]!r}", wave)
    self.frames = np.array([len(wave) for wave in self._waves], np.int64)
    self.rates = _rates(name, rate, count)
    self.labels = _labels(name, labels, count)

  def __len__(self) -> int:
    return len(self.ids)

  def read(self, i: int, start: int, stop: int) -> tuple[np.ndarray, int]:
    """Samples [start, stop) of recording i, fewer where it ends: (f32[samples, channels], Hz)."""
    wave = self._waves[i][start:stop].astype(np.float32, copy=False)
    return wave.reshape(len(wave), -1), int(self.rates[i])

  def _check_ids(self, count: int) -> None:
    if len(self.ids) != count:
      raise DataError(f"{self.name}: {len(self.ids)} ids for {count} recordings; give one each")
    seen: set[str] = set()
    for each in self.ids:
      if not isinstance(each, str) or not each or each in seen:
        raise DataError(
          f"{self.name}: id {each!r} is empty, no text or there twice; make it unique"
        )
      seen.add(each)


def _check_wave(what: str, wave: np.ndarray) -> None:
  if wave.ndim not in (1, 2) or not wave.size:
    raise DataError(f"{what} has shape {wave.shape}; give [samples] or [samples, channels]")
  if wave.ndim == 2 and wave.shape[1] > wave.shape[0]:
    raise DataError(f"{what} has shape {wave.shape}, more channels than samples; transpose it")
  if wave.dtype.kind != "f":
    raise DataError(
      f"{what} is {wave.dtype}; give floats in [-1, 1], such as int16 samples divided by 32768"
    )
  if bad := int(np.count_nonzero(~np.isfinite(wave))):
    raise DataError(f"{what}: {bad} of {wave.size} samples are NaN or infinite; leave it out")


def _rates(name: str, rate: int | Sequence[int] | np.ndarray, count: int) -> np.ndarray:
  rates = np.asarray(rate)
  if rates.shape not in ((), (count,)):
    raise DataError(f"{name}: rate has shape {rates.shape}; give one rate, or one per recording")
  low, high = _RATES
  # A rate that is no whole number or not finite fails the comparison with its own integer part.
  with np.errstate(invalid="ignore"):
    sound = np.issubdtype(rates.dtype, np.number) and np.all(
      (rates == rates.astype(np.int64)) & (rates >= low) & (rates <= high)
    )
  if not sound:
    raise DataError(f"{name}: rate is {rate!r} Hz; give whole numbers of {low} to {high}")
  return np.broadcast_to(rates.astype(np.int32), (count,))


def _labels(name: str, labels: Sequence | np.ndarray | None, count: int) -> list | None:
  if labels is None:
    return None
  values = [x.item() if isinstance(x, np.generic) else x for x in labels]
  if len(values) != count:
    raise DataError(f"{name}: {len(values)} labels for {count} recordings; give one each")
  for value in values:
    if not isinstance(value, str) and not (isinstance(value, int) and value >= 0):
      raise DataError(
        f"{name}: label {value!r} is neither a name nor an integer from 0; "
        "use '' where it is unknown"
      )
  return values
