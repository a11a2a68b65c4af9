"""Shards and their indexes, damaged by accident, or by someone who then mends the checksums."""

import io
import json
import pathlib
import struct
import tarfile

import numpy as np
import soundfile

from pipelines import DataConfig, columns
from pipelines.crc32c import masked_crc32c
from pipelines.dataset import open_dataset
from pipelines.errors import BadAudio, DataError
from pipelines.shard_files import serialize_example
from pipelines.shards import ShardPlan, write_shards
from pipelines.sources import open_source
from pipelines.sources.arrays import ArraySource
from pipelines.sources.shard import SIDECAR
from pipelines.sources.tfrecord import record_offsets
from tests.faults.damage import Damage
from tests.faults.readers import Reader, assert_refusal

CFG = DataConfig(max_bad_share=1.0, workers=1)
RECORDINGS = 4


def flac(number: int) -> bytes:
  wave = 0.3 * np.random.default_rng(number).standard_normal(300 + 40 * number)
  file = io.BytesIO()
  soundfile.write(file, np.clip(wave, -1, 1), 16_000, format="FLAC")
  return file.getvalue()


def contents(source) -> dict[str, tuple]:
  """{id: (label, rate, samples)} of what can be read; what cannot must say so."""
  found = {}
  for i, name in enumerate(source.ids):
    label = "" if source.labels is None else source.labels[i]
    frames = int(source.frames[i])
    assert frames > 0
    try:
      wave, rate = source.read(i, 0, frames)
    except BadAudio as error:
      assert_refusal(error)
      continue
    if len(wave) == frames and rate == source.rates[i]:
      found[name] = (label, rate, wave.tobytes())
  return found


class Shard(Reader):
  """A shard of four recordings: what is still listed is as it was, and what is not is missed.

  suffix: of the shard's name. The list of what was skipped, and how many more were counted as lost,
  must account for every recording that is gone.
  """

  suffix = ""

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder)
    self.originals = self.make()
    self.whole = []
    for data in self.originals:
      source = self.open(data)
      assert not source.skipped
      self.whole.append(contents(source))
      assert len(self.whole[-1]) == RECORDINGS

  def make(self) -> list[bytes]:
    raise NotImplementedError

  def open(self, data: bytes):
    path = self.folder / f"x{self.suffix}"
    path.write_bytes(data)
    return open_source(str(path), CFG)

  def read(self, number: int, damage: Damage) -> bool:
    try:
      source = self.open(damage.data)
    except DataError as error:
      assert_refusal(error)
      return True
    for _, reason in source.skipped:
      assert reason
      assert "\n" not in reason
    found, whole = contents(source), self.whole[number]
    for name, content in found.items():
      self.accept(number, damage, name, content)
    gone = len({each[2] for each in whole.values()} - {each[2] for each in found.values()})
    unreadable = len(source.ids) - len(found)  # which is told when they are met, as they were here
    told = len(source.skipped) + source.lost + unreadable
    if self.is_blind_to(number, damage.data):
      return not found
    if len(damage.data) >= len(self.originals[number]):
      # By the mean length of the others, so it is not exact.
      assert gone <= 2 * told, (gone, told, source.skipped, list(source.ids), source.lost)
    else:  # how much was cut off nobody can know
      assert told or not gone
    return not found

  def is_blind_to(self, number: int, data: bytes) -> bool:
    """Whether the format itself has nothing that could tell of this damage."""
    return False

  def accept(self, number, damage, name, content) -> None:
    """Raises unless a listed recording, (label, rate, samples), may be what it is."""
    assert content == self.whole[number][name]


class Tar(Shard):
  """Headers have checksums and FLAC has its own; the text of a label has none."""

  suffix = ".tar"

  def make(self) -> list[bytes]:
    shards = []
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
      file = io.BytesIO()
      with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for i in range(RECORDINGS):
          # Names that are too long for a plain header are written in each format's own way.
          folder = "long" * 30 if format != tarfile.USTAR_FORMAT and i == 2 else "short"
          note = json.dumps({"label": f"label{i}"}).encode()
          for suffix, data in ((".flac", flac(i)), (".json", note)):
            info = tarfile.TarInfo(f"{folder}/{i:04d}{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
      shards.append(file.getvalue())
    return shards

  def accept(self, number, damage, name, content) -> None:
    whole = self.whole[number]
    if name not in whole:  # the sum that guards a header does not see all: another name, that is it
      assert content[1:] in [each[1:] for each in whole.values()], name
      return
    label, *audio = whole[name]
    assert list(content[1:]) == audio
    at = self.originals[number].find(label.encode())
    cut = len(damage.data) < at + 512 and not content[0]
    assert content[0] == label or cut or damage.low <= at + len(label)

  def is_blind_to(self, number: int, data: bytes) -> bool:
    """A header's checksum is the sum of its bytes, which two changes may leave as it was."""
    original = self.originals[number]
    return any(
      data[at : at + 512] != original[at : at + 512]
      and sum(data[at : at + 512]) == sum(original[at : at + 512])
      for at in range(0, len(data), 512)
    )


class TFRecord(Shard):
  """Checksums cover everything."""

  suffix = ".tfrecord"

  def make(self) -> list[bytes]:
    both = []
    for encoded in (True, False):
      shard = b""
      for i in range(RECORDINGS):
        plain = np.random.default_rng(i).integers(-9999, 9999, 200 + i).astype("<i2").tobytes()
        fields = {"id": b"id%d" % i, "label": b"label%d" % i, "sample_rate": 16_000}
        shard += framed(serialize_example({**fields, "audio": flac(i) if encoded else plain}))
      both.append(shard)
    return both

  def is_blind_to(self, number: int, data: bytes) -> bool:
    """A cut between two records: only an index beside the shard knows of what followed."""
    path = self.folder / "cut"
    path.write_bytes(data)
    return not any(reason for _, _, reason in record_offsets(str(path), len(data)))


def framed(data: bytes) -> bytes:
  length = struct.pack("<Q", len(data))
  checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
  return length + next(checks) + data + next(checks)


class Forged(Reader):
  """Damage behind sound checksums: whoever wrote it meant it. Anything sane may come of it."""

  suffix = ""

  def forge(self, data: bytes) -> bytes:
    """A shard around the damaged part."""
    raise NotImplementedError

  def read(self, number: int, damage: Damage) -> bool:
    path = self.folder / f"x{self.suffix}"
    path.write_bytes(self.forge(damage.data))
    try:
      source = open_source(str(path), CFG)
      dataset = open_dataset(DataConfig(crop_seconds=0.01, max_bad_share=1.0), "all", 0, [source])
    except DataError as error:
      assert_refusal(error)
      return True
    assert all(name.isprintable() or "\n" not in name for name in source.ids)
    assert len(dataset) < 1e9
    contents(source)
    return bool(source.skipped)


class ForgedTar(Forged):
  """The fields of a header: name, sizes, kinds, links, prefixes; then one of pax records."""

  suffix = ".tar"

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder)
    self._audio = flac(0)
    self._kind = b"0"
    info = tarfile.TarInfo("a/b.flac")
    info.size = len(self._audio)
    link = tarfile.TarInfo("c.wav")
    link.type, link.linkname = tarfile.SYMTYPE, "../../etc/passwd"
    sparse = b"30 GNU.sparse.numblocks=99999\n22 GNU.sparse.major=1\n17 size=99999999\n"
    self.originals = [
      info.tobuf(tarfile.USTAR_FORMAT)[:512],
      link.tobuf(tarfile.GNU_FORMAT)[:512],
      b"16 path=x.flac\n" + b"13 size=%d\n" % len(self._audio) + sparse,
    ]

  def forge(self, data: bytes) -> bytes:
    body = self._audio + bytes(-len(self._audio) % 512)
    if len(data) < 300:  # records
      head = tarfile.TarInfo("pax")
      head.type, head.size = b"x", len(data)
      blocks = head.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
      return blocks + self.originals[0] + body + bytes(1024)
    block = bytearray(data[:512].ljust(512, b"\0"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data[512:] + body + bytes(1024)


class ForgedTFRecord(Forged):
  """The bytes of a tf.train.Example: keys, kinds, lengths, numbers."""

  suffix = ".tfrecord"

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder)
    plain = np.arange(-90, 90).astype("<i2").tobytes()
    self.originals = [
      serialize_example({"audio": plain, "sample_rate": 16_000, "channels": 2, "label": 3}),
      serialize_example({"audio": b"fLaC", "sample_rate": b"16000", "channels": b"1"}),
    ]

  def forge(self, data: bytes) -> bytes:
    return framed(data) + framed(serialize_example({"audio": flac(0)}))


class Index(Reader):
  """The stored index of a shard: its own checksums tell, and then the shard is read instead."""

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder)
    waves = [np.random.default_rng(i).uniform(-0.5, 0.5, 400 + i) for i in range(RECORDINGS)]
    labels = [f"label{i}" for i in range(RECORDINGS)]
    dataset = open_dataset(CFG, "all", 0, [ArraySource(waves, 16_000, labels=labels)])
    write_shards(dataset, str(folder / "set"), ShardPlan())
    self._path = folder / "set" / f"shard-00000.tfrecord{SIDECAR}"
    self.originals = [self._path.read_bytes()]
    self.whole = contents(open_source(str(folder / "set"), CFG))

  def read(self, number: int, damage: Damage) -> bool:
    self._path.write_bytes(damage.data)
    assert contents(open_source(str(self.folder / "set"), CFG)) == self.whole
    return columns.load(str(self._path)) is None


READERS = {
  "tar": Tar,
  "tar, forged": ForgedTar,
  "tfrecord": TFRecord,
  "tfrecord, forged": ForgedTFRecord,
  "index": Index,
}
