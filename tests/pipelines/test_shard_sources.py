import io
import json
import tarfile
import zlib

import numpy as np
import pytest
import soundfile

from pipelines import DataConfig, DataError, files, open_dataset
from pipelines.crc32c import crc32c, masked_crc32c
from pipelines.errors import BadAudio
from pipelines.shard_files import serialize_example
from pipelines.shards import ShardPlan, write_shards
from pipelines.sources import example, open_source
from pipelines.sources.shard import load_sidecar
from pipelines.sources.tar import TarSource
from pipelines.sources.tfrecord import RecordFormat, TFRecordSource
from tests.pipelines.conftest import tone

CFG = DataConfig()


def flac(number: int, seconds: float = 0.5, rate: int = 16_000) -> bytes:
  file = io.BytesIO()
  soundfile.write(file, tone(number, seconds, rate), rate, format="FLAC")
  return file.getvalue()


def write_tar(path, members: dict[str, bytes]) -> None:
  with tarfile.open(path, "w") as tar:
    for name, data in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))


def write_records(path, records: list[bytes]) -> None:
  tf = pytest.importorskip("tensorflow")
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record)


def test_webdataset_keys_labels_and_order(tmp_path):
  write_tar(
    tmp_path / "x-000.tar",
    {
      "a/0001.flac": flac(1),
      "a/0001.json": json.dumps({"label": "dog", "other": [1]}).encode(),
      "a/0002.cls": b"3\n",
      "a/0002.flac": flac(2),
      "readme.txt": b"hello",
      "0003.left.flac": flac(3),
    },
  )
  write_tar(tmp_path / "x-001.tar", {"b.flac": flac(4), "b.json": b'{"id": "own", "label": 7}'})
  source = open_source(f"{tmp_path}/x-{{000..001}}.tar", CFG)
  assert list(source.ids) == ["a/0001", "a/0002", "0003", "own"]
  assert list(source.labels) == ["dog", "3", "", "7"]
  assert source.shards.tolist() == [0, 0, 0, 1]
  for i in range(4):
    wave, rate = source.read(i, 100, 900)
    assert rate == 16_000
    assert np.allclose(wave, tone(i + 1, 0.5)[100:900], atol=1e-4)


def test_large_tar_members_are_read_in_part(tmp_path, monkeypatch):
  from pipelines.sources import shard

  write_tar(tmp_path / "x.tar", {"a.flac": flac(0), "b.flac": flac(1, 2.0)})
  source = open_source(f"{tmp_path}/x.tar", CFG)
  whole = source.read(1, 20_000, 30_000)[0]
  monkeypatch.setattr(shard, "_WHOLE_BYTES", 100)
  assert np.array_equal(source.read(1, 20_000, 30_000)[0], whole)


def test_remote_shards_with_an_index_beside_them(library, tmp_path):
  pytest.importorskip("tensorflow")
  local = open_dataset(DataConfig(source=(str(library("set", 4)),)), "all")
  write_shards(local, str(tmp_path / "shards"), ShardPlan())
  (path,) = (tmp_path / "shards").glob("*.tfrecord")
  near, far = open_source(str(path), CFG), open_source(f"file://{path}", CFG)
  assert list(far.ids) == list(near.ids)
  assert np.array_equal(far.read(2, 0, 500)[0], near.read(2, 0, 500)[0])
  # The index was read, and not the shard in its place.
  assert load_sidecar(f"file://{path}", path.stat().st_size) is not None


def test_a_folder_in_place_of_an_index_is_passed_over(tmp_path):
  pytest.importorskip("tensorflow")
  write_tar(tmp_path / "x.tar", {"a.flac": flac(1), "b.flac": flac(2)})
  (tmp_path / "x.tar.index.npz").mkdir()
  for path in (f"{tmp_path}/x.tar", f"file://{tmp_path}/x.tar"):
    assert list(open_source(path, CFG).ids) == ["a", "b"]


def test_an_index_that_may_not_be_looked_for_is_passed_over(tmp_path, monkeypatch):
  tf = pytest.importorskip("tensorflow")
  write_tar(tmp_path / "x.tar", {"a.flac": flac(1)})
  exists = tf.io.gfile.exists

  def refuse(path):
    if path.endswith(".npz"):
      raise tf.errors.PermissionDeniedError(None, None, "no access")
    return exists(path)

  monkeypatch.setattr(tf.io.gfile, "exists", refuse)
  assert list(open_source(f"file://{tmp_path}/x.tar", CFG).ids) == ["a"]


@pytest.mark.parametrize("kind", [TarSource, TFRecordSource])
def test_a_remote_shard_that_cannot_be_read_is_told_in_one_line(tmp_path, kind):
  pytest.importorskip("tensorflow")
  path = f"file://{tmp_path}"
  with pytest.raises(DataError, match=f"^{path} cannot be read: .*Is a directory$"):
    kind("x", [path], CFG)


def test_remote_errors_are_those_of_local_files(tmp_path):
  pytest.importorskip("tensorflow")
  absent = files.open_binary(f"file://{tmp_path}/absent")
  with pytest.raises(FileNotFoundError, match="absent"):
    absent.read(1)
  with pytest.raises(BadAudio, match="absent is gone"):
    files.read_range(f"file://{tmp_path}/absent", 0, 1)
  with pytest.raises(BadAudio, match="cannot be read: .*Is a directory$"):
    files.read_range(f"file://{tmp_path}", 0, 1)
  (tmp_path / "x").write_bytes(b"12345")
  with files.open_binary(f"file://{tmp_path}/x") as file:
    file.seek(-3, 2)
    assert file.tell() == 2
    assert file.read() == b"345"
    with pytest.raises(OSError, match=f"{tmp_path}/x"):
      file.seek(-1)


@pytest.mark.parametrize("size", [1 << 40, 1 << 62, 1 << 70, (1 << 88) - 1])
@pytest.mark.parametrize("how", ["binary", "pax"])
def test_sizes_beyond_the_end_of_a_tar(tmp_path, size, how):
  write_tar(tmp_path / "x.tar", {f"{number}.flac": flac(number, 2.0) for number in range(8)})
  data = bytearray((tmp_path / "x.tar").read_bytes())
  head = data.find(b"2.flac")
  if how == "binary":
    data[head + 124 : head + 136] = b"\x80" + size.to_bytes(11, "big")
    data[head + 148 : head + 156] = b" " * 8
    data[head + 148 : head + 156] = b"%06o\0 " % sum(data[head : head + 512])
  else:
    record = b"%d size=%d\n" % (8 + len(str(size)) + 1, size)
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = b"x", len(record)
    data[head:head] = pax.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")
  (tmp_path / "x.tar").write_bytes(data)
  source = open_source(str(tmp_path / "x.tar"), CFG)
  assert list(source.ids) == ["0", "1"]
  ((_, reason),) = source.skipped
  assert "ends inside this member" in reason or "is damaged at byte" in reason
  # Six were lost: as many as the rest of the file has room for, and not what the size would hold.
  assert 5 <= len(source.skipped) + source.lost <= 8


def test_truncated_tar_keeps_what_is_whole(tmp_path):
  write_tar(tmp_path / "x.tar", {"a.flac": flac(0), "b.flac": flac(1)})
  data = (tmp_path / "x.tar").read_bytes()
  (tmp_path / "x.tar").write_bytes(data[: 512 + len(flac(0)) + 1500])
  source = open_source(f"{tmp_path}/x.tar", CFG)
  assert list(source.ids) == ["a"]
  assert source.skipped == [("b", "x.tar ends inside this member")]


@pytest.mark.parametrize("beyond", [0, 100])  # between two members; inside the next header
def test_a_tar_cut_between_members_says_so(tmp_path, beyond):
  write_tar(tmp_path / "x.tar", {"a.flac": flac(0), "b.flac": flac(1)})
  first = 512 + -(-len(flac(0)) // 512) * 512
  data = (tmp_path / "x.tar").read_bytes()
  (tmp_path / "x.tar").write_bytes(data[: first + beyond])
  source = open_source(f"{tmp_path}/x.tar", CFG)
  assert list(source.ids) == ["a"]
  assert source.skipped == [("x.tar#end", "x.tar has no end mark; its last members may be missing")]


def test_wrong_tars(tmp_path):
  (tmp_path / "a.tar").write_bytes(b"no tar file at all" * 100)
  with pytest.raises(DataError, match="is not an uncompressed tar file"):
    open_source(f"{tmp_path}/a.tar", CFG)
  (tmp_path / "b.tar").touch()
  with pytest.raises(DataError, match="is empty"):
    open_source(f"{tmp_path}/b.tar", CFG)
  write_tar(tmp_path / "c.tar", {"a.txt": b"x"})
  with pytest.raises(DataError, match="no audio records"):
    open_source(f"{tmp_path}/c.tar", CFG)


def test_tfrecord_of_encoded_audio_and_of_samples(tmp_path):
  tf = pytest.importorskip("tensorflow")

  def ints(values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

  def data(value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

  wave = tone(5, 0.25, channels=2)
  pcm = np.round(wave * 32767).astype(np.int16)
  examples = [
    {"audio": data(flac(1)), "id": data(b"one"), "label": ints([3])},
    {
      "audio": tf.train.Feature(float_list=tf.train.FloatList(value=wave[:, 0])),
      "sample_rate": ints([22_050]),
      "label": data(b"cat"),
    },
    {"audio": ints(pcm.ravel().tolist()), "sample_rate": ints([8000]), "channels": ints([2])},
    {"audio": data(pcm[:, 0].tobytes()), "sample_rate": ints([8000])},
    {"audio": ints([1, 2, 3])},
    {"text": data(b"no audio")},
  ]
  records = [
    tf.train.Example(features=tf.train.Features(feature=e)).SerializeToString() for e in examples
  ]
  write_records(tmp_path / "x.tfrecord-00000-of-00001", records)
  source = open_source(f"{tmp_path}/x.tfrecord*", CFG)
  name = "x.tfrecord-00000-of-00001"
  assert list(source.ids) == ["one", f"{name}#1", f"{name}#2", f"{name}#3"]
  assert list(source.labels) == ["3", "cat", "", ""]
  assert source.rates.tolist() == [16_000, 22_050, 8000, 8000]
  assert source.frames.tolist() == [8000, 4000, 4000, 4000]
  assert np.array_equal(source.read(1, 10, 20)[0], wave[10:20, :1])
  assert np.allclose(source.read(2, 10, 20)[0], wave[10:20], atol=1e-4)
  assert np.allclose(source.read(3, 0, 4000)[0], wave[:, :1], atol=1e-4)
  assert [reason for _, reason in source.skipped] == [
    "record has plain samples and no sample_rate",
    "record has no audio feature among text",
  ]


@pytest.mark.parametrize("at", ["length", "tail"])
def test_damaged_tfrecord_keeps_what_is_whole(tmp_path, at):
  path = tmp_path / "x.tfrecord"
  record = serialize_example({"audio": flac(1)})
  write_records(path, [record, record, record])
  data = bytearray(path.read_bytes())
  if at == "length":
    data[16 + len(record) + 2] ^= 1
  else:
    del data[-100:]
  path.write_bytes(bytes(data))
  source = open_source(str(path), CFG)
  assert len(source.ids) == (1 if at == "length" else 2)
  assert ("damaged at byte" if at == "length" else "ends inside the record") in source.skipped[0][1]


def test_file_that_is_no_tfrecord(tmp_path):
  (tmp_path / "x.tfrecord").write_bytes(b"nothing of the kind")
  with pytest.raises(DataError, match="not an uncompressed TFRecord file"):
    open_source(f"{tmp_path}/x.tfrecord", CFG)


def test_zipped_raw_samples(tmp_path):
  pcm = np.arange(-50, 50, dtype="<i2")
  record = serialize_example({"sound": zlib.compress(pcm.tobytes())})
  write_records(tmp_path / "x.tfrecord", [record])
  fmt = RecordFormat(audio="sound", rate=16_000, raw="int16", zipped=True)
  source = TFRecordSource("x", [str(tmp_path / "x.tfrecord")], CFG, fmt)
  assert np.array_equal(source.read(0, 0, 100)[0][:, 0], pcm / np.float32(32768))


def test_example_parser_agrees_with_protobuf():
  tf = pytest.importorskip("tensorflow")
  numbers = [0, 1, 127, 128, 300, -1, -(2**63), 2**63 - 1]
  feature = {
    "n": tf.train.Feature(int64_list=tf.train.Int64List(value=numbers)),
    "f": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5, -2.0])),
    "b": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x", b"y"])),
    "none": tf.train.Feature(),
  }
  proto = tf.train.Example(features=tf.train.Features(feature=feature))
  parsed = example.parse(proto.SerializeToString())
  assert parsed["n"].numbers().tolist() == numbers
  assert len(parsed["n"]) == len(numbers)
  assert parsed["f"].numbers().tolist() == [0.5, -2.0]
  assert parsed["b"].first_bytes() == b"x"
  ours = serialize_example({"audio": b"abc", "frames": 300})
  fields = tf.train.Example.FromString(ours).features.feature
  assert fields["audio"].bytes_list.value[0] == b"abc"
  assert fields["frames"].int64_list.value[0] == 300
  with pytest.raises(ValueError):
    example.parse(proto.SerializeToString()[:-3])


def test_checksum():
  assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
  rng = np.random.default_rng(0)
  for size in (0, 1, 15, 16, 17, 1000, 5000):
    data = rng.integers(0, 256, size, np.uint8).tobytes()
    crc = 0xFFFFFFFF
    for byte in data:
      crc ^= byte
      for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    assert crc32c(data) == crc ^ 0xFFFFFFFF
  assert masked_crc32c(b"") == 0xA282EAD8


def test_tfds(tmp_path):
  tfds = pytest.importorskip("tensorflow_datasets")

  class TinySounds(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # a class inside a test has no package folder with checksums

    def _info(self):
      features = {
        "audio": tfds.features.Audio(sample_rate=8000),
        "label": tfds.features.ClassLabel(names=["zebra", "ant"]),
      }
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
      return {"train": self._generate_examples(5), "test": self._generate_examples(2)}

    def _generate_examples(self, count=0):
      for i in range(count):
        wave = np.round(tone(i, 0.1 + 0.01 * i, 8000)[:, 0] * 32767)
        yield str(i), {"audio": wave.astype(np.int64), "label": i % 2}

  TinySounds(data_dir=str(tmp_path)).download_and_prepare()
  cfg = DataConfig(data_dir=str(tmp_path))
  source = open_source("tfds:tiny_sounds", cfg)
  assert source.classes == ["zebra", "ant"]
  number = [round((f / 8000 - 0.1) / 0.01) for f in source.frames]
  assert sorted(number) == [0, 1, 2, 3, 4]
  for row, i in enumerate(number):
    wave, rate = source.read(row, 0, int(source.frames[row]))
    assert rate == 8000
    assert np.allclose(wave, tone(i, 0.1 + 0.01 * i, 8000), atol=1e-4)
    assert int(source.labels[row]) == i % 2
  test = open_source("tfds:tiny_sounds", DataConfig(data_dir=str(tmp_path), split="test"))
  assert len(test.ids) == 2
  with pytest.raises(DataError, match=r"no split of tfds:tiny_sounds; splits: .*train"):
    open_source("tfds:tiny_sounds", DataConfig(data_dir=str(tmp_path), split="valid"))
  with pytest.raises(DataError, match="tfds:no_such_set is not found in"):
    open_source("tfds:no_such_set", cfg)
