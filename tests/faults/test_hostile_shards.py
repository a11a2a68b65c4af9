"""Shards that someone made to do harm: nothing is written, nothing hangs, memory stays bounded."""

import io
import os
import resource
import struct
import tarfile
import time
import zipfile
import zlib

import numpy as np
import pytest
import soundfile

from pipelines import DataConfig, DataError, batches, columns, open_dataset
from pipelines.batch import _tensorflow
from pipelines.shard_files import serialize_example
from pipelines.shards import ShardPlan, write_shards
from pipelines.sources import open_source
from pipelines.sources.shard import SIDECAR
from pipelines.sources.tfrecord import RecordFormat, TFRecordSource
from tests.faults.readers import assert_refusal
from tests.faults.shard_readers import flac, framed
from tests.pipelines.conftest import index_cache, library

__all__ = ["index_cache", "library"]
pytestmark = [pytest.mark.faults, pytest.mark.fault(12)]
CFG = DataConfig(crop_seconds=0.01, max_bad_share=1.0)
NAMES = (
  "../../outside.flac",
  "/tmp/absolute.flac",
  "a/../../../etc/cron.d/x.flac",
  "..\\..\\windows.flac",
  "con\x1b[2J\ntrol.flac",
  "-rf.flac",
  "~/home.flac",
)


@pytest.fixture(autouse=True)
def bounded():
  """A gigabyte more than now, and a minute, must do for each of these."""
  _tensorflow()
  with open("/proc/self/statm", encoding="ascii") as file:
    now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
  before = resource.getrlimit(resource.RLIMIT_AS)
  resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), before[1]))
  began = time.monotonic()
  yield
  resource.setrlimit(resource.RLIMIT_AS, before)
  assert time.monotonic() - began < 60


def member(name, data=b"", kind=tarfile.REGTYPE, link="", size=None):
  info = tarfile.TarInfo(name)
  info.type, info.linkname = kind, link
  info.size = len(data) if size is None else size
  return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def tree(folder):
  return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def everything(folder):
  """Uses a set in every way there is: batches, evaluation, and shards made of it."""
  dataset = open_dataset(DataConfig(**{**CFG.__dict__, "source": (str(folder),)}), "all")
  with batches(dataset, batch_size=4, seed=0, steps=4) as stream:
    list(stream)
  for kind in ("tar", "tfrecord"):
    write_shards(dataset, f"{folder}-copy-{kind}", ShardPlan(kind=kind))
  return dataset


def test_names_are_only_names(tmp_path):
  inside = tmp_path / "deep" / "er" / "set"
  inside.mkdir(parents=True)
  with tarfile.open(inside / "x.tar", "w") as tar:
    for number, name in enumerate(NAMES):
      info = tarfile.TarInfo(name)
      info.size = len(flac(number))
      tar.addfile(info, io.BytesIO(flac(number)))
  dataset = everything(inside)
  assert len(dataset) >= len(NAMES)
  assert all("\n" not in name and "\x1b" not in name for name in dataset.ids)
  made = [f"deep/er/set-copy-{k}" for k in ("tar", "tfrecord")]
  allowed = ("deep/er/set", *made)
  assert all(p in ("deep", "deep/er") or p.startswith(allowed) for p in tree(tmp_path))
  assert not os.path.exists("/tmp/absolute.flac")
  # What is handed on has names of our own.
  with tarfile.open(tmp_path / "deep/er/set-copy-tar" / "shard-00000.tar") as tar:
    assert all(name.split(".")[0].isdecimal() for name in tar.getnames())


def test_members_that_are_no_files_are_named_and_not_followed(tmp_path):
  secret = tmp_path / "secret.flac"
  secret.write_bytes(flac(9))
  kinds = {
    "soft.flac": member("soft.flac", kind=tarfile.SYMTYPE, link=str(secret)),
    "hard.flac": member("hard.flac", kind=tarfile.LNKTYPE, link=str(secret)),
    "char.wav": member("char.wav", kind=tarfile.CHRTYPE),
    "block.wav": member("block.wav", kind=tarfile.BLKTYPE),
    "pipe.ogg": member("pipe.ogg", kind=tarfile.FIFOTYPE),
    "sparse.wav": member("sparse.wav", bytes(512), kind=tarfile.GNUTYPE_SPARSE),
  }
  good = member("good.flac", flac(1))
  (tmp_path / "x.tar").write_bytes(b"".join(kinds.values()) + good + bytes(1024))
  source = open_source(str(tmp_path / "x.tar"), CFG)
  assert list(source.ids) == ["good"]
  reasons = dict(source.skipped)
  assert set(reasons) == {name.split(".")[0] for name in kinds}
  assert reasons["soft"] == "is a symbolic link in x.tar"
  assert reasons["char"] == "is a device in x.tar"


LYING_TARS = {
  "a size of exabytes": member("a.flac", flac(0), size=1 << 62),
  "a name of exabytes": member("a", b"x" * 512, kind=tarfile.GNUTYPE_LONGNAME, size=1 << 62),
  "a name of gigabytes": member("a", b"x" * 512, kind=tarfile.GNUTYPE_LONGNAME, size=1 << 33),
  "records of exabytes": member("a", b"9" * 512, kind=tarfile.XHDTYPE, size=1 << 62),
  "global records of gigabytes": member("a", b"9" * 512, kind=tarfile.XGLTYPE, size=1 << 33),
  "a record of no length": member("a", b"0 path=x\n", kind=tarfile.XHDTYPE),
  "a record that goes back": member("a", b"-9 path=x\n", kind=tarfile.XHDTYPE),
  "digits without end": member("a", b"9" * 4096, kind=tarfile.XHDTYPE),
  "sizes that go back": member("a", b"21 size=-99999999999\n", kind=tarfile.XHDTYPE)
  + member("a.flac", flac(0)),
  "a sparse map without end": member("a.flac", b"\xff" * 5120, kind=tarfile.GNUTYPE_SPARSE),
}


@pytest.mark.parametrize("what", LYING_TARS)
@pytest.mark.parametrize("first", [True, False])
def test_tars_that_lie(tmp_path, what, first):
  good = member("good.flac", flac(1))
  data = LYING_TARS[what] + good if first else good + LYING_TARS[what]
  (tmp_path / "x.tar").write_bytes(data + bytes(1024))
  try:
    source = open_source(str(tmp_path / "x.tar"), CFG)
  except DataError as error:
    assert_refusal(error)
    assert first  # else the member before it is read
    return
  assert list(source.ids) in ([], ["good"])
  assert source.skipped


def test_a_negative_size_in_binary(tmp_path):
  block = bytearray(member("a.flac", size=0)[:512])
  block[124:136] = b"\xff" * 12  # minus one, in the GNU form
  block[148:156] = b" " * 8
  block[148:156] = b"%06o\0 " % sum(block)
  good = member("good.flac", flac(1))
  (tmp_path / "x.tar").write_bytes(good + bytes(block) + good + bytes(1024))
  source = open_source(str(tmp_path / "x.tar"), CFG)
  assert list(source.ids) == ["good"]
  assert "damaged at byte" in source.skipped[0][1]


def test_notes_that_bite(tmp_path):
  notes = {
    "deep": b"[" * 500_000,
    "long": b'{"label": ' + b"9" * 100_000 + b"}",
    "list": b"[1]",
    "wrong": b'{"label": {"a": [1]}, "id": 7}',
  }
  shard = b""
  for number, (name, data) in enumerate(notes.items()):
    shard += member(f"{name}.flac", flac(number)) + member(f"{name}.json", data)
  (tmp_path / "x.tar").write_bytes(shard + bytes(1024))
  source = open_source(str(tmp_path / "x.tar"), CFG)
  assert list(source.ids) == ["list", "wrong"]
  assert [reason[:25] for _, reason in source.skipped] == ["its .json is not JSON: to"] * 2


@pytest.mark.parametrize("length", [(1 << 64) - 1, (1 << 63) - 16, 1 << 40, 1 << 31, 0])
def test_records_that_lie_about_their_length(tmp_path, length):
  head = struct.pack("<Q", length)
  lie = head + framed(head)[20:24]  # the masked checksum of the eight bytes of the length
  (tmp_path / "x.tfrecord").write_bytes(framed(serialize_example({"audio": flac(0)})) + lie + b"x")
  source = open_source(str(tmp_path / "x.tfrecord"), CFG)
  assert len(source.ids) == 1
  assert len(source.skipped) >= 1


def test_numbers_that_lie_in_a_record(tmp_path):
  plain = np.arange(400, dtype="<i2").tobytes()
  fields = [
    {"sample_rate": b"1e999"},
    {"sample_rate": b"nan"},
    {"sample_rate": (1 << 63) - 1},
    {"sample_rate": 1},
    {"sample_rate": 16_000, "channels": (1 << 62)},
    {"sample_rate": 16_000, "channels": b"many"},
    {"sample_rate": b"\xff\xfe"},
  ]
  records = [framed(serialize_example({"audio": plain, **each})) for each in fields]
  (tmp_path / "x.tfrecord").write_bytes(
    b"".join(records) + framed(serialize_example({"audio": plain, "sample_rate": 16_000}))
  )
  source = open_source(str(tmp_path / "x.tfrecord"), CFG)
  assert len(source.ids) == 1
  assert len(source.skipped) == len(fields)


def test_samples_that_unpack_to_more_than_memory(tmp_path):
  bomb = zlib.compress(bytes(1 << 29), 9)
  record = framed(serialize_example({"sound": bomb * 1}))
  (tmp_path / "x.tfrecord").write_bytes(record)
  fmt = RecordFormat(audio="sound", rate=16_000, raw="int16", zipped=True)
  source = TFRecordSource("x", [str(tmp_path / "x.tfrecord")], CFG, fmt)
  assert "too long" in source.skipped[0][1]


def wav_of(frames, rate=16_000, channels=1, size=None):
  data = bytes(2 * channels * 500)
  size = len(data) if size is None else size
  head = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 * channels, 2 * channels, 16)
  return (
    b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + head
    + b"data" + struct.pack("<I", size) + data
  )  # fmt: skip


def test_recordings_that_claim_the_impossible(tmp_path):
  folder = tmp_path / "set"
  folder.mkdir()
  (folder / "large.wav").write_bytes(wav_of(500, size=0xFFFFFFF0))  # the file decides
  (folder / "slow.wav").write_bytes(wav_of(500, rate=1))
  (folder / "fast.wav").write_bytes(wav_of(500, rate=4_000_000_000 // 2))
  flac_data = bytearray(flac(0))
  flac_data[21] |= 0x0F  # 64 thousand million samples in a kilobyte
  flac_data[22:26] = b"\xff" * 4
  (folder / "endless.flac").write_bytes(bytes(flac_data))
  soundfile.write(folder / "good.wav", np.zeros(500, np.float32), 16_000)
  dataset = open_dataset(DataConfig(**{**CFG.__dict__, "source": (str(folder),)}), "all")
  reasons = dict(dataset.skipped)
  assert set(reasons) == {"slow.wav", "fast.wav", "endless.flac"}
  assert "cannot hold" in reasons["endless.flac"]
  assert len(dataset) < 20
  everything(folder)


def sidecar(folder):
  (path,) = folder.glob("*" + SIDECAR)
  return path


@pytest.fixture
def indexed(library, tmp_path):
  source = open_dataset(DataConfig(source=(str(library("set", 4)),)), "all")
  write_shards(source, str(tmp_path / "shards"), ShardPlan())
  return tmp_path / "shards"


def ids(folder):
  return list(open_source(str(folder), CFG).ids)


@pytest.mark.parametrize(
  ("column", "value"),
  [
    ("offset", -1), ("offset", 1 << 62), ("size", 1 << 62), ("size", -5), ("frames", 0),
    ("frames", -(1 << 40)), ("rates", 0), ("rates", 1 << 30),
  ],
)  # fmt: skip
def test_an_index_that_lies_is_not_believed(indexed, column, value):
  whole = ids(indexed)
  path = str(sidecar(indexed))
  table = columns.load(path)
  table[column] = table[column].copy()
  table[column][1] = value
  columns.save(path, table)
  assert ids(indexed) == whole
  everything(indexed)


def npy(shape, dtype="'<i8'", content=b""):
  head = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
  head += b" " * (-(len(head) + 11) % 64) + b"\n"
  return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content


BOMBS = {
  "claims exabytes": npy("(1152921504606846976,)"),
  "claims no length": npy("(-1,)"),
  "a pickle": npy("(1,)", "'|O'", b"cos\nsystem\n(S'touch /tmp/hostile-pickle'\ntR."),
  "a call": npy("__import__('os').system('touch /tmp/hostile-pickle')"),
  "nested": npy("(" * 3000),
}


@pytest.mark.parametrize("what", BOMBS)
def test_an_index_that_is_a_bomb(indexed, what):
  whole = ids(indexed)
  with zipfile.ZipFile(sidecar(indexed), "a") as archive:
    archive.writestr("more.npy", BOMBS[what])
  assert ids(indexed) == whole
  assert not os.path.exists("/tmp/hostile-pickle")


def test_an_index_that_unpacks_to_gigabytes_and_one_with_paths(indexed):
  whole = ids(indexed)
  before = tree(indexed.parent)
  with zipfile.ZipFile(sidecar(indexed), "a", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("../../outside.npy", npy("(8,)", content=bytes(64)))
    archive.writestr("/tmp/absolute.npy", bytes(1 << 27))
  assert ids(indexed) == whole
  assert tree(indexed.parent) == before
  assert not os.path.exists("/tmp/absolute.npy")


def test_an_index_that_is_a_pipe_or_a_device(indexed):
  whole = ids(indexed)
  path = sidecar(indexed)
  path.unlink()
  os.mkfifo(path)
  assert ids(indexed) == whole
  path.unlink()
  path.symlink_to("/dev/zero")
  assert ids(indexed) == whole


def test_tables_that_bite(library):
  folder = library("set", 3)
  rows = [
    '{"path": "/dev/zero"}',
    '{"path": "/proc/self/mem"}',
    '{"path": "../set/000.flac", "label": "sound"}',
    '{"path": "001.flac", "start": 1e-300}',
  ]
  (folder / "t.jsonl").write_text("\n".join(rows))
  source = open_source(str(folder / "t.jsonl"), CFG)
  assert list(source.ids) == ["../set/000.flac", "001.flac@1e-300"]
  assert dict(source.skipped)["/dev/zero"] == "is no regular file"
  for row in (
    '{"path": "a\\u0000b"}',
    '{"path": "\\ud800"}',
    '{"path": "000.flac", "label": "\\ud800"}',
    '{"path": "000.flac", "start": ' + "9" * 5000 + "}",
    "[" * 100_000,
    '{"path": "000.flac", "start": 1e400}',
  ):
    (folder / "t.jsonl").write_text(row)
    with pytest.raises(DataError) as caught:
      open_source(str(folder / "t.jsonl"), CFG)
    assert "\n" not in str(caught.value)
