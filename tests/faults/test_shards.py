"""Shards cut, flipped, empty, gone or slow: counted, replaced the same way, and limited."""

import os
import time

import numpy as np
import pytest

from pipelines import DataConfig, DataError, batches, files, open_dataset
from pipelines.shards import ShardPlan, write_shards
from pipelines.sources.shard import SIDECAR
from tests.pipelines.conftest import index_cache, library

__all__ = ["index_cache", "library"]
pytestmark = [pytest.mark.faults, pytest.mark.fault(5)]
COUNT, PER_SHARD = 40, 10
KINDS = ("tfrecord", "tar")


@pytest.fixture(params=[f"{kind} {index}" for kind in KINDS for index in ("indexed", "bare")])
def shards(library, tmp_path, request):
  """Four shards of ten recordings, with and without the indexes that are written beside them."""
  kind, index = request.param.split()
  folder = tmp_path / "shards"
  source = open_dataset(DataConfig(source=(str(library("set", COUNT)),)), "all")
  write_shards(source, str(folder), ShardPlan(kind, PER_SHARD, shuffle_seed=-1))
  if index == "bare":
    for path in folder.glob("*" + SIDECAR):
      path.unlink()
    (folder / "shards.json").unlink()
  return folder


def path_of(folder, number):
  (path,) = (p for p in folder.glob(f"shard-{number:05d}.t*") if not p.name.endswith(".npz"))
  return path


def settings(folder, **changes):
  how = {"crop_seconds": 0.05, "max_bad_share": 0.5, "workers": 2, **changes}
  return DataConfig(source=(str(folder),), **how)


def read(folder, steps=30, start=0, hosts=1, stream=False, **changes):
  """(ids by step, waves by step, unusable while reading, while indexing, lost without a name).

  stream: by TensorFlow's engine; the other one starts quicker.
  """
  dataset = open_dataset(settings(folder, **changes), "all")
  for source in dataset.sources:
    source.in_memory = not stream
  streams = [
    batches(
      dataset, batch_size=8, seed=3, start_step=start, steps=steps, host_index=h, host_count=hosts
    )
    for h in range(hosts)
  ]
  ids, waves = [], []
  for parts in zip(*streams, strict=True):
    ids.append([name for part in parts for name in part["id"]])
    waves.append(np.concatenate([part["wave"] for part in parts]).tobytes())
  return ids, waves, dict(streams[0].bad.names), dict(dataset.skipped), dataset.lost


def assert_repeatable(folder, **changes):
  """What is read does not depend on the run, its beginning, the hosts, or the threads."""
  first = read(folder, stream=True, **changes)
  assert read(folder, **changes)[:2] == first[:2]
  assert read(folder, hosts=2, **changes)[:2] == first[:2]
  assert read(folder, **{**changes, "workers": 1})[:2] == first[:2]
  late = read(folder, start=20, steps=10, **changes)
  assert late[0] == first[0][20:]
  assert late[1] == first[1][20:]
  return first


def recordings(ids):
  return {name.split("#")[0] for step in ids for name in step}


@pytest.mark.parametrize("order", ["global", "shards"])
def test_a_cut_shard(shards, order):
  path = path_of(shards, 1)
  data = path.read_bytes()
  path.write_bytes(data[: len(data) * 55 // 100])
  ids, _, bad, skipped, lost = assert_repeatable(shards, order=order)
  assert not bad
  # With its index beside it each lost recording has a name; without, they are counted.
  left = len(recordings(ids) & {f"{i:03d}.flac" for i in range(PER_SHARD, 2 * PER_SHARD)})
  assert 3 <= left <= 7
  assert len(skipped) + lost in (PER_SHARD - left, PER_SHARD - left + 1)
  assert all(path.name in reason for reason in skipped.values())
  with pytest.raises(DataError, match=rf"of 4\d recordings are unusable.*{path.name}"):
    open_dataset(settings(shards, max_bad_share=0.05), "all")


def test_flipped_bytes_in_the_audio(shards):
  path = path_of(shards, 2)
  data = bytearray(path.read_bytes())
  starts = [i for i in range(len(data)) if data[i : i + 4] == b"fLaC"]
  for number in (1, 4):
    end = starts[number + 1] - (1536 if path.suffix == ".tar" else 0)  # headers and notes of tar
    data[(starts[number] + 3 * end) // 4] ^= 0x20
  path.write_bytes(bytes(data))
  ids, _, bad, skipped, lost = assert_repeatable(shards)
  unusable = bad | skipped
  assert len(unusable) == 2
  assert not lost
  named = [name for name in unusable if not name.startswith(path.name)]
  assert not set(named) - {"021.flac", "024.flac"}
  assert recordings(ids) == {f"{i:03d}.flac" for i in range(COUNT) if i not in (21, 24)}
  with pytest.raises(DataError, match="2 of 40 recordings are unusable"):
    read(shards, max_bad_share=0.04)


def test_a_flipped_header_costs_no_more_than_it_says(shards):
  if list(shards.glob("*" + SIDECAR)):
    pytest.skip("with its index no header is read")
  path = path_of(shards, 0)
  data = bytearray(path.read_bytes())
  starts = [i for i in range(len(data)) if data[i : i + 4] == b"fLaC"]
  tar = path.suffix == ".tar"
  # The name of the fifth member, or the length of the fifth record.
  at = starts[4] - 512 + 3 if tar else data.rfind(b"\n", 0, starts[4] - 20) - 12
  for i in range(at, at + 4):
    data[i] ^= 0x15
  path.write_bytes(bytes(data))
  ids, _, _, skipped, lost = assert_repeatable(shards)
  gone = COUNT - len(recordings(ids))
  assert 5 <= gone <= 7
  assert abs(len(skipped) + lost - gone) <= 1
  assert any("damaged" in reason and "lost" in reason for reason in skipped.values())


@pytest.mark.parametrize("content", [b"", b"no shard at all" * 99, bytes(4096)])
def test_an_unreadable_shard_among_others(shards, content):
  path = path_of(shards, 3)
  path.write_bytes(content)
  for sidecar in shards.glob(path.name + SIDECAR):
    sidecar.unlink()
  ids, _, _, skipped, lost = assert_repeatable(shards)
  assert len(recordings(ids)) == COUNT - PER_SHARD
  assert len(skipped) == 1
  assert len(skipped) + lost == PER_SHARD  # as many as the others hold
  with pytest.raises(DataError, match="10 of 40 recordings are unusable"):
    open_dataset(settings(shards, max_bad_share=0.2), "all")


def test_all_shards_unreadable(shards):
  for number in range(COUNT // PER_SHARD):
    path_of(shards, number).write_bytes(b"")
  for sidecar in shards.glob("*" + SIDECAR):
    sidecar.unlink()
  with pytest.raises(DataError, match="is empty; delete it or copy it again"):
    open_dataset(settings(shards), "all")


def test_a_shard_that_vanishes_while_it_is_read(shards):
  whole = read(shards)[0]
  dataset = open_dataset(settings(shards), "all")
  path = path_of(shards, 1)
  with batches(dataset, batch_size=8, seed=3, steps=30) as stream:
    ids = [next(stream)["id"].tolist()]
    path.rename(path.with_suffix(".away"))
    ids += [batch["id"].tolist() for batch in stream]
    bad = dict(stream.bad.names)
  assert ids[0] == whole[0]
  assert set(bad) <= {f"{i:03d}.flac" for i in range(PER_SHARD, 2 * PER_SHARD)}
  assert all(reason == f"{path} is gone" for reason in bad.values())
  for mine, theirs in zip(ids, whole, strict=True):  # every other row is as it would have been
    for one, other in zip(mine, theirs, strict=True):
      assert one == other or other.split("#")[0] in bad
  # A start without it is refused: with other data it would be another run.
  if not (shards / "shards.json").exists():
    spec = f"{shards}/shard-{{00000..00003}}{path.suffix}"
    with pytest.raises(DataError, match=f"no shard .*{path.name}"):
      open_dataset(DataConfig(source=(spec,)), "all")
  path.with_suffix(".away").rename(path)
  assert read(shards)[0] == whole


def test_vanishing_past_the_share_stops_the_run(shards):
  dataset = open_dataset(settings(shards, max_bad_share=0.1), "all")
  path = path_of(shards, 1)
  stream = batches(dataset, batch_size=8, seed=3, steps=60)
  next(stream)
  path.unlink()
  with pytest.raises(DataError, match=r"[56] of 40 recordings .* more than data.max_bad_share 0.1"):
    list(stream)


def test_slow_shards_change_nothing(shards, monkeypatch):
  whole = read(shards)[:2]
  real = files.read_range

  def slow(path, offset, size):
    time.sleep(0.02 if (offset // 100) % 3 else 0.0)
    return real(path, offset, size)

  monkeypatch.setattr(files, "read_range", slow)
  assert read(shards)[:2] == whole


def test_a_shard_without_permission(shards):
  if os.geteuid() == 0:
    pytest.skip("root may read everything")
  path = path_of(shards, 0)
  path.chmod(0)
  dataset = open_dataset(settings(shards), "all")
  assert dataset.lost + len(dataset.skipped) >= 1
