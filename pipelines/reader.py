"""From a clip number to a filled row, with a substitute where the audio is unusable."""

from typing import NamedTuple

import numpy as np

from pipelines import crops, decode, order
from pipelines.crew import Job
from pipelines.dataset import Clip, Dataset, check_share
from pipelines.errors import BadAudio, DataError

_ATTEMPTS = 100


class Row(NamedTuple):
  """What a row holds: valid samples (0: nothing), id, and number of the clip (-1: none)."""

  valid: int
  id: str
  example: int


class ClipReader:
  """Reads clips of a data set into rows; may be called from many threads at once.

  What proves unusable goes to the data set's ledger; DataError past the allowed share.
  """

  def __init__(self, dataset: Dataset, seed: int, waves: "WaveCache | None" = None):
    self.dataset, self.seed, self._waves = dataset, seed, waves

  def read(
    self, out: np.ndarray, position: int, epoch: int, example: int, job: Job | None = None
  ) -> Row:
    """Fills f32[samples] with a clip, or with a substitute if that clip is unusable.

    The substitute is another clip of the same source, chosen by hashing (seed, position, attempt),
    so it is the same after a restart and on any host. `job` is told what is read.
    """
    wanted = example
    first, count = self.dataset.source_range(wanted)
    for attempt in range(_ATTEMPTS):
      clip = self.dataset.clip(example)
      try:
        return self._read_clip(out, clip, epoch, example, job)
      except BadAudio as error:
        self._note(clip, error)
      draw = order.hash64(order.stream(self.seed, "substitute"), position, attempt)[0]
      example = first + int(draw % np.uint64(count))
    raise DataError(
      f"no usable substitute for {self.dataset.ids[wanted]} in {_ATTEMPTS} attempts; most of "
      f"{self.dataset.sources[clip.source].name} is damaged or gone"
    )

  def read_or_blank(self, out: np.ndarray, example: int, job: Job | None = None) -> Row:
    """Fills a row for evaluation: zeros and valid 0 where there is no clip, or an unusable one."""
    if example < 0:
      out[:] = 0.0
      return Row(0, "", -1)
    clip = self.dataset.clip(example)
    try:
      return self._read_clip(out, clip, 0, example, job)
    except BadAudio as error:
      self._note(clip, error)
    out[:] = 0.0
    return Row(0, self.dataset.clip_id(clip), example)

  def _note(self, clip: Clip, error: BadAudio) -> None:
    dataset = self.dataset
    if met := dataset.bad.add(dataset.recording_id(clip), str(error)):
      bad = [*met, *dataset.skipped]
      check_share(bad, dataset.recordings_found, dataset.cfg, dataset.lost)

  def _read_clip(
    self, out: np.ndarray, clip: Clip, epoch: int, example: int, job: Job | None
  ) -> Row:
    dataset, cfg = self.dataset, self.dataset.cfg
    if job is not None:
      job.at(lambda: dataset.place(clip))
    source = dataset.sources[clip.source]
    frames, rate = int(source.frames[clip.recording]), int(source.rates[clip.recording])
    start = crops.clip_start(cfg, self.seed, epoch, example, clip.number, frames, rate)
    if self._waves is not None:
      valid = self._waves.fill(out, clip.source, clip.recording, start)
    else:
      valid = decode.fill(out, source, clip.recording, start, rate, frames, cfg.sample_rate)
    return Row(valid, dataset.clip_id(clip), example)


def _check_room(seconds: float, rate: int) -> None:
  """Refuses to decode more audio into memory than there is room for."""
  needed, room = 4.0 * seconds * rate, _free_bytes()
  if room is not None and needed > 0.8 * room:
    raise DataError(
      f"data.cache 'memory' would take {needed / 1e9:.1f} GB for {seconds / 3600:.1f} h of audio, "
      f"and {room / 1e9:.1f} GB are free; set --data.cache none to stream it"
    )


def _free_bytes() -> int | None:
  """Memory that could be used, caches included; None where the system does not say."""
  try:
    with open("/proc/meminfo", encoding="ascii") as lines:
      return next(1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
  except (OSError, StopIteration, ValueError):
    return None


class WaveCache:
  """Every recording of a data set, decoded once: mono f32 at the target rate, in memory.

  The clips are those of the stream. Only a random start may fall between two samples at the target
  rate, where it is rounded down; the stream resamples from the very start. A recording that is
  damaged anywhere is unusable as a whole.
  """

  def __init__(self, dataset: Dataset):
    from pipelines import index  # only this class needs threads at construction

    self._dataset = dataset
    self._rate = dataset.cfg.sample_rate
    self._waves: dict[tuple[int, int], np.ndarray | str] = {}
    keys = [(s, int(i)) for s in range(len(dataset.sources)) for i in dataset.recordings_of(s)]

    sources = dataset.sources
    _check_room(
      sum(float(sources[s].frames[i]) / float(sources[s].rates[i]) for s, i in keys), self._rate
    )

    def load(number: int) -> None:
      self._waves[keys[number]] = self._decode(*keys[number])

    def name(number: int) -> str:
      return dataset.place(Clip(*keys[number], 0))

    index.run_threads(load, range(len(keys)), dataset.cfg, "decoding", "recordings", name)

  def _decode(self, source_number: int, recording: int) -> np.ndarray | str:
    """The wave, or why there is none."""
    source = self._dataset.sources[source_number]
    frames, rate = int(source.frames[recording]), int(source.rates[recording])
    try:
      wave, found_rate = source.read(recording, 0, frames)
      decode.check_length(1, 1, found_rate, rate)
    except BadAudio as error:
      return str(error)
    # a copy where resampling made none: a view would keep every channel of the file in memory
    return np.array(decode.resample(decode.mono(wave), rate, self._rate), np.float32)

  def fill(self, out: np.ndarray, source_number: int, recording: int, start: int) -> int:
    """As `decode.fill`, from memory."""
    wave = self._waves[source_number, recording]
    if isinstance(wave, str):
      raise BadAudio(wave)
    source = self._dataset.sources[source_number]
    frames, rate = int(source.frames[recording]), int(source.rates[recording])
    wanted = min(len(out), max(1, (frames - start) * self._rate // rate))
    piece = wave[start * self._rate // rate :][:wanted]
    decode.check_length(len(piece) * rate // self._rate, wanted * rate // self._rate, rate, rate)
    out[: len(piece)] = piece
    out[len(piece) :] = 0.0
    decode.check_finite(piece)
    return len(piece)
