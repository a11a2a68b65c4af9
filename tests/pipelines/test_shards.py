import errno
import json

import numpy as np
import pytest
import soundfile

from pipelines import DataConfig, DataError, batches, columns, open_dataset, shards
from pipelines.shards import ShardPlan, write_shards
from pipelines.sources.shard import SIDECAR
from tests.pipelines.conftest import tone


def _open(path, **changes):
  return open_dataset(DataConfig(source=(str(path),), crop_seconds=0.05, **changes), part="all")


def _waves(dataset):
  return [
    (b["id"].tolist(), b["valid"].tolist(), b["wave"].tobytes())
    for b in batches(dataset, batch_size=4, seed=1, steps=20)
  ]


@pytest.mark.parametrize("kind", ["tfrecord", "tar"])
@pytest.mark.parametrize("encoding", ["flac", "flac24", "copy"])
def test_shards_yield_the_batches_of_their_source(library, tmp_path, kind, encoding):
  source = _open(library("set", 10))
  plan = ShardPlan(kind=kind, encoding=encoding, clips_per_shard=4, shuffle_seed=-1)
  done = write_shards(source, str(tmp_path / "out"), plan)
  assert (done.shards, done.made, done.recordings, done.skipped) == (3, 3, 10, ())
  names = sorted(p.name for p in (tmp_path / "out").iterdir())
  assert names[0] == f"shard-00000.{kind}"
  assert len(names) == 7
  copy = _open(tmp_path / "out")
  assert list(copy.ids) == list(source.ids)
  assert copy.sources[0].shards.tolist() == [0] * 4 + [1] * 4 + [2] * 2
  assert _waves(copy) == _waves(source)
  for path in (tmp_path / "out").glob("*" + SIDECAR):  # without the indexes the scan finds the same
    path.unlink()
  assert _waves(_open(tmp_path / "out")) == _waves(source)
  assert list(_open(f"{tmp_path}/out/shard-{{00000..00002}}.{kind}").ids) == list(source.ids)


def test_tfrecord_checksums_satisfy_tensorflow(library, tmp_path):
  tf = pytest.importorskip("tensorflow")
  write_shards(_open(library("set", 5)), str(tmp_path / "out"), ShardPlan())
  records = list(tf.data.TFRecordDataset(str(tmp_path / "out/shard-00000.tfrecord")))
  fields = tf.train.Example.FromString(records[0].numpy()).features.feature
  assert len(records) == 5
  assert fields["audio"].bytes_list.value[0][:4] == b"fLaC"
  assert fields["sample_rate"].int64_list.value[0] == 16_000


def test_shuffling_spreads_recordings_and_keeps_labels(library, tmp_path):
  folder = library("set", 12)
  rows = [json.dumps({"path": f"{i:03d}.flac", "label": f"class{i % 3}"}) for i in range(12)]
  (folder / "t.jsonl").write_text("\n".join(rows))
  source = _open(folder / "t.jsonl")
  for kind in ("tar", "tfrecord"):
    write_shards(source, str(tmp_path / kind), ShardPlan(kind=kind))
    copy = _open(tmp_path / kind)
    assert list(copy.ids) != list(source.ids)
    assert sorted(copy.ids) == sorted(source.ids)
    assert copy.classes == source.classes
    wanted = dict(zip(source.ids, source.labels.tolist(), strict=True))
    assert dict(zip(copy.ids, copy.labels.tolist(), strict=True)) == wanted


def test_other_rates_and_channels_become_16_khz_mono(tmp_path):
  (tmp_path / "set").mkdir()
  soundfile.write(tmp_path / "set/a.ogg", tone(4, 1.0, 44_100, 2), 44_100)
  write_shards(_open(tmp_path / "set"), str(tmp_path / "out"), ShardPlan())
  source = _open(tmp_path / "out").sources[0]
  assert source.rates.tolist() == [16_000]
  wave, _ = source.read(0, 0, 16_000)
  assert wave.shape == (16_000, 1)
  assert np.abs(wave - 0.75 * tone(4, 1.0))[200:-200].max() < 0.02
  write_shards(_open(tmp_path / "set"), str(tmp_path / "same"), ShardPlan(encoding="copy"))
  same = _open(tmp_path / "same").sources[0]
  assert same.read(0, 0, 10)[0].shape == (10, 2)


def test_parts_of_files_are_cut_out_even_as_copies(library, tmp_path):
  folder = library("set", 1, seconds=1.0)
  (folder / "t.csv").write_text("path,start,stop\n000.flac,0.125,0.25\n")
  write_shards(_open(folder / "t.csv"), str(tmp_path / "out"), ShardPlan(encoding="copy"))
  source = _open(tmp_path / "out").sources[0]
  assert source.frames.tolist() == [2000]
  assert np.allclose(source.read(0, 0, 2000)[0], tone(0, 0.6)[2000:4000], atol=1e-4)


def test_a_stopped_run_goes_on(library, tmp_path, monkeypatch):
  source = _open(library("set", 10))
  plan, out = ShardPlan(clips_per_shard=4), tmp_path / "out"
  real, calls = shards._encode, []

  def failing(dataset, clip, number, plan):
    calls.append(number)
    if number == 6 and stop:
      raise KeyboardInterrupt
    return real(dataset, clip, number, plan)

  monkeypatch.setattr(shards, "_encode", failing)
  stop = True
  with pytest.raises(KeyboardInterrupt):
    write_shards(source, str(out), plan, workers=1)
  assert not list(out.glob("*.part"))
  assert [p.name for p in out.glob("*.tfrecord")] == ["shard-00000.tfrecord"]
  stop = False
  calls.clear()
  assert write_shards(source, str(out), plan).made == 2
  assert sorted(calls) == [4, 5, 6, 7, 8, 9]
  write_shards(source, str(tmp_path / "whole"), plan)
  for path in (tmp_path / "whole").glob("*.tfrecord"):
    assert path.read_bytes() == (out / path.name).read_bytes()
  assert write_shards(source, str(out), plan).made == 0


def test_other_shards_are_not_overwritten(library, tmp_path):
  source = _open(library("set", 3))
  write_shards(source, str(tmp_path / "out"), ShardPlan())
  with pytest.raises(DataError, match="encoding flac there, copy now"):
    write_shards(source, str(tmp_path / "out"), ShardPlan(encoding="copy"))
  (tmp_path / "out" / shards.PLAN).unlink()
  with pytest.raises(DataError, match="choose an empty folder"):
    write_shards(source, str(tmp_path / "out"), ShardPlan())
  (tmp_path / "file").touch()
  with pytest.raises(DataError, match="is a file"):
    write_shards(source, str(tmp_path / "file"), ShardPlan())


def test_full_disk_is_one_line_and_leaves_no_rubbish(library, tmp_path, monkeypatch):
  source = _open(library("set", 10))
  real = columns.save

  def full(path, table):
    if "00001" in path:
      raise OSError(errno.ENOSPC, "No space left on device")
    real(path, table)

  monkeypatch.setattr(columns, "save", full)
  with pytest.raises(DataError, match=r"no space left to write .*shard-00001.*\(1 from") as caught:
    write_shards(source, str(tmp_path / "out"), ShardPlan(clips_per_shard=4))
  assert "\n" not in str(caught.value)
  names = sorted(p.name for p in (tmp_path / "out").iterdir())
  assert names == ["shard-00000.tfrecord", "shard-00000.tfrecord" + SIDECAR, shards.PLAN]


def test_bad_recordings_are_left_out_and_named(library, tmp_path):
  folder = library("set", 5)
  soundfile.write(folder / "nan.wav", np.full(1000, np.nan), 16_000, subtype="FLOAT")
  source = _open(folder, max_bad_share=0.5)
  done = write_shards(source, str(tmp_path / "out"), ShardPlan())
  assert done.recordings == 5
  assert done.skipped == (("nan.wav", "1000 of 1000 samples are NaN or infinite"),)
  with pytest.raises(DataError, match="1 of 6 recordings are unusable"):
    write_shards(_open(folder), str(tmp_path / "strict"), ShardPlan())


def test_stale_index_is_not_believed(library, tmp_path):
  write_shards(_open(library("set", 5)), str(tmp_path / "a"), ShardPlan(clips_per_shard=3))
  first, second = (tmp_path / f"a/shard-0000{n}.tfrecord" for n in (0, 1))
  second.write_bytes(first.read_bytes())
  assert len(_open(tmp_path / "a").sources[0].ids) == 6


@pytest.mark.parametrize(
  ("field", "value"),
  [("kind", "zip"), ("encoding", "mp3"), ("clips_per_shard", 0), ("sample_rate", 1)],
)
def test_wrong_plans(field, value):
  with pytest.raises(DataError, match=field):
    ShardPlan(**{field: value})
