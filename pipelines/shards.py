"""Writing shards: any source into a few large files that are quick to index and to read through."""

import concurrent.futures
import contextlib
import dataclasses
import errno
import hashlib
import io
import itertools
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import soundfile

from pipelines import columns, decode, files, order
from pipelines.dataset import Clip, Dataset, check_share
from pipelines.errors import BadAudio, DataError
from pipelines.files import RangeFile
from pipelines.progress import Progress
from pipelines.shard_files import WRITERS, Record
from pipelines.sources.shard import SIDECAR, Row, load_sidecar, pack_rows

ENCODINGS = ("flac", "flac24", "copy")
PLAN = "shards.json"
_SUFFIXES = {b"fLaC": ".flac", b"RIFF": ".wav", b"OggS": ".ogg", b"FORM": ".aiff", b".snd": ".au"}
_log = logging.getLogger("pipelines")


@dataclasses.dataclass(frozen=True)
class ShardPlan:
  """How recordings go into shards. Invalid values raise DataError with the fix."""

  # "tfrecord" or "tar" (WebDataset)
  kind: str = "tfrecord"
  # recordings per shard
  clips_per_shard: int = 1000
  # "flac" (16 bits) and "flac24": mono at sample_rate; "copy": the bytes as they are
  encoding: str = "flac"
  # Hz, of flac and flac24
  sample_rate: int = 16_000
  # recordings are spread over the shards at random by this seed; -1 keeps their order
  shuffle_seed: int = 0

  def __post_init__(self):
    for field, choices in (("kind", tuple(WRITERS)), ("encoding", ENCODINGS)):
      if getattr(self, field) not in choices:
        raise DataError(f"{field} is {getattr(self, field)!r}; choose one of {', '.join(choices)}")
    if self.clips_per_shard < 1:
      raise DataError(f"clips_per_shard is {self.clips_per_shard}; give at least 1, such as 1000")
    if not 1_000 <= self.sample_rate <= 384_000:
      raise DataError(f"sample_rate is {self.sample_rate} Hz; give 1000 to 384000 (usual: 16000)")


@dataclasses.dataclass(frozen=True)
class Written:
  """What `write_shards` did: all shards, those made now with recordings and bytes, bad ones."""

  shards: int
  made: int
  recordings: int
  bytes: int
  skipped: tuple[tuple[str, str], ...]


def write_shards(dataset: Dataset, folder: str, plan: ShardPlan, workers: int = 0) -> Written:
  """Writes every recording of a data set, whole, into numbered shards in a folder.

  Each shard appears under its name only when it is complete, with an index beside it; a stopped
  run goes on with the first shard that is missing. Unusable recordings are logged and left out.

  Args:
    dataset: opened with part "all"; ids, labels and order are kept (see plan.shuffle_seed).
    folder: made if absent; a data source itself afterwards.
    plan: format and size.
    workers: encoding threads, 0 for one per core.

  Raises:
    DataError: the folder holds other shards, the disk is full, or too many recordings are unusable.
  """
  work = [Clip(s, int(i), 0) for s in range(len(dataset.sources)) for i in dataset.recordings_of(s)]
  if plan.shuffle_seed >= 0:
    turn = order.permute(np.arange(len(work)), len(work), order.stream(plan.shuffle_seed, "write"))
    work = [work[i] for i in turn]
  count = -(-len(work) // plan.clips_per_shard)
  _claim(folder, dataset, plan, work, count)
  paths = [os.path.join(folder, f"shard-{n:05d}{WRITERS[plan.kind].suffix}") for n in range(count)]
  skipped: list[tuple[str, str]] = list(dataset.skipped)
  recordings = size = made = 0
  workers = workers or os.cpu_count() or 1
  with (
    concurrent.futures.ThreadPoolExecutor(workers, "encode") as pool,
    Progress("writing shards", len(work), "recordings", quiet_seconds=1.0) as progress,
  ):
    for number, path in enumerate(paths):
      first = number * plan.clips_per_shard
      part = range(first, min(len(work), first + plan.clips_per_shard))
      if _finished(path):
        progress.skip(len(part))
        continue

      def encode(k: int) -> Record | BadAudio:
        return _encode(dataset, work[k], k, plan)

      records = _ahead(pool, encode, part, 4 * workers)
      with _one_line_for_full_disk(path, made):
        done = _write_shard(path, plan.kind, records, skipped, progress)
      check_share(skipped, dataset.recordings_found, dataset.cfg, dataset.lost)
      made, recordings, size = made + 1, recordings + done, size + os.path.getsize(path)
  return Written(count, made, recordings, size, tuple(skipped))


def _write_shard(path: str, kind: str, records, skipped: list, progress: Progress) -> int:
  """Writes a shard and its index; the shard gets its name last: the sign that both are whole."""
  temporary = f"{path}.part"
  rows: list[Row] = []
  try:
    with open(temporary, "wb") as file:
      writer = WRITERS[kind](file)
      for record in records:
        progress.add()
        if isinstance(record, BadAudio):
          name, reason = record.args
          _log.warning("unusable recording %s: %s; left out", name, reason)
          skipped.append((name, reason))
          continue
        offset, size = writer.add(record)
        rows.append((record.id, record.frames, record.rate, offset, size, record.label, ""))
      writer.finish()
      file.flush()
      os.fsync(file.fileno())
    table = pack_rows(rows) | {"shard_size": np.array(os.path.getsize(temporary), np.int64)}
    columns.save(path + SIDECAR, table)
    os.replace(temporary, path)
  except BaseException:
    if os.path.exists(temporary):
      os.unlink(temporary)
    raise
  return len(rows)


def _encode(dataset: Dataset, clip: Clip, number: int, plan: ShardPlan) -> Record | BadAudio:
  source, i = dataset.sources[clip.source], clip.recording
  name = dataset.recording_id(clip)
  label = dataset.label(clip)
  text = dataset.classes[label] if dataset.classes is not None and label >= 0 else ""
  try:
    if plan.encoding == "copy" and (copy := _copy(source, i)) is not None:
      frames, rate = decode.header(copy)
      return Record(number, name, text, copy, _suffix(copy), frames, rate)
    frames, rate = int(source.frames[i]), int(source.rates[i])
    wave, found_rate = source.read(i, 0, frames)
    decode.check_length(len(wave), frames, found_rate, rate)
    wave = decode.mono(wave)
    decode.check_finite(wave)
    target = rate if plan.encoding == "copy" else plan.sample_rate
    wave = decode.resample(wave, rate, target)
    file = io.BytesIO()
    bits = "PCM_24" if plan.encoding == "flac24" else "PCM_16"
    soundfile.write(file, wave, target, format="FLAC", subtype=bits)
    return Record(number, name, text, file.getvalue(), ".flac", len(wave), target)
  except BadAudio as error:
    return BadAudio(name, str(error))


def _copy(source, i: int) -> bytes | None:
  """The encoded file of a recording, or None where the recording is not one whole file."""
  if not hasattr(source, "locate"):
    return None
  payload, first = source.locate(i)
  if isinstance(payload, str):
    try:
      payload = files.read_range(payload, 0, files.stat(payload).size)
    except OSError:
      raise BadAudio("absent") from None
  elif isinstance(payload, RangeFile):
    with payload as window:
      payload = window.read()
  if not isinstance(payload, bytes) or first:
    return None
  return payload if decode.header(payload)[0] == source.frames[i] else None


def _suffix(audio: bytes) -> str:
  return _SUFFIXES.get(audio[:4], ".mp3")


def _ahead(pool, work: Callable, items: range, most: int) -> Iterator:
  """Results in order, with at most `most` of them under way or waiting: memory stays bounded."""
  todo = iter(items)
  running = deque(pool.submit(work, item) for item in itertools.islice(todo, most))
  try:
    while running:
      yield running.popleft().result()
      running.extend(pool.submit(work, item) for item in itertools.islice(todo, 1))
  finally:
    for future in running:
      future.cancel()


def _finished(path: str) -> bool:
  return os.path.exists(path) and load_sidecar(path, os.path.getsize(path)) is not None


def _claim(folder: str, dataset: Dataset, plan: ShardPlan, work: list[Clip], shards: int) -> None:
  """Makes the folder ours, or finds that it is; refuses one with other shards in it."""
  digest = hashlib.blake2b(digest_size=16)
  for clip in work:
    name = dataset.recording_id(clip).encode("utf-8", "surrogateescape")
    digest.update(name + b"\0%d\0" % int(dataset.sources[clip.source].frames[clip.recording]))
  content = {"shards": shards, "recordings": len(work), "data": digest.hexdigest()}
  content |= dataclasses.asdict(plan)
  path = os.path.join(folder, PLAN)
  if os.path.exists(folder) and not os.path.isdir(folder):
    raise DataError(f"{folder} is a file; give a folder for the shards")
  with _one_line_for_full_disk(path, 0):
    os.makedirs(folder, exist_ok=True)
    if os.path.exists(path):
      _check_plan(path, content)
      return
    if strange := [n for n in os.listdir(folder) if n.startswith("shard-")]:
      raise DataError(f"{folder} holds {strange[0]} and no {PLAN}; choose an empty folder")
    with open(path + ".part", "w", encoding="utf-8") as file:
      json.dump(content, file, indent=2)
    os.replace(path + ".part", path)


def _check_plan(path: str, content: dict) -> None:
  try:
    with open(path, encoding="utf-8") as file:
      stored = json.load(file)
  except ValueError:
    raise DataError(f"{path} is damaged; delete the folder or choose another") from None
  differing = [k for k in content if stored.get(k) != content[k]]
  if differing:
    what = "; ".join(f"{k} {stored.get(k)} there, {content[k]} now" for k in differing)
    raise DataError(f"{path} belongs to other shards ({what}); choose another folder")


@contextlib.contextmanager
def _one_line_for_full_disk(path: str, made: int) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      raise
    raise DataError(
      f"no space left to write {path}; finished shards are kept ({made} from this run): free some "
      "space and run the same command again"
    ) from None
