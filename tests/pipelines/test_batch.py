"""Step n's batch is a pure function of (seed, n, data set)."""

import dataclasses
import threading

import numpy as np
import pytest

import pipelines.batch
from pipelines import DataConfig, DataError, batches, evaluation_batches, open_dataset, reader
from pipelines.dataset import Dataset
from pipelines.parts import is_held_out
from pipelines.shards import ShardPlan, write_shards
from tests.pipelines.conftest import tone

STEPS = 60  # several epochs of every case
BATCH = 4


@pytest.fixture
def datasets(library):
  """Makes a data set by name: the cases that order and mixing meet."""
  first, second = library("first", 23, seconds=0.05), library("second", 9, 22_050, suffix=".wav")
  short = {"crop_seconds": 0.02, "workers": 2}

  def make(case: str, **changes) -> Dataset:
    source: tuple[str, ...] = (str(first), str(second))
    if "shards" in case:
      source = tuple(_sharded(path) for path in source)
    cfg = DataConfig(
      source=source,
      weights=(3.0, 1.0) if "mixed" in case else (),
      order="shards" if "shards" in case else "global",
      crop="random" if "random" in case else "sequential",
      **(short | changes),
    )
    return open_dataset(cfg, part="all")

  def _sharded(path: str) -> str:
    folder = path + "-shards"
    plan = ShardPlan(kind="tar", clips_per_shard=4, encoding="copy")
    write_shards(open_dataset(DataConfig(source=(path,)), part="all"), folder, plan)
    return folder

  return make


def collect(dataset, start=0, steps=STEPS, seed=3, hosts=1, batch=BATCH):
  """Per step: the ids and a digest of waves and lengths of the global batch."""
  found = []
  streams = [
    batches(
      dataset,
      batch_size=batch,
      seed=seed,
      start_step=start,
      steps=steps,
      host_index=h,
      host_count=hosts,
    )
    for h in range(hosts)
  ]
  for parts in zip(*streams, strict=True):
    wave = np.concatenate([p["wave"] for p in parts])
    valid = np.concatenate([p["valid"] for p in parts])
    ids = tuple(i for p in parts for i in p["id"].tolist())
    found.append((ids, valid.tobytes(), wave.tobytes()))
  return found


# `make test-slow` runs the cases between the simplest and the one that holds them all.
CASES = [
  "global",
  *(pytest.param(c, marks=pytest.mark.slow) for c in ("global random", "mixed", "shards")),
  pytest.param("shards random", marks=pytest.mark.slow),
  "mixed shards random",
]


@pytest.mark.parametrize("case", CASES)
def test_batches_depend_on_seed_and_step_alone(datasets, case):
  dataset = datasets(case)
  whole = collect(dataset)
  assert len({ids for ids, _, _ in whole}) > STEPS - 5
  for start in (1, 37, 59):  # a restart at any step
    assert collect(dataset, start, min(15, STEPS - start)) == whole[start : start + 15]
  for hosts, workers in ((2, 1), (4, 3)):
    assert collect(datasets(case, workers=workers), hosts=hosts) == whole


def test_memory_engine_yields_the_same_batches(datasets, monkeypatch):
  streamed = collect(datasets("global"), steps=STEPS)
  monkeypatch.setattr(pipelines.batch, "_tf_steps", None)
  cached = collect(datasets("global", cache="memory"), steps=STEPS)
  assert [c[0] for c in cached] == [s[0] for s in streamed]
  for one, two in zip(cached, streamed, strict=True):
    assert one[1] == two[1]
    # resampled whole or in part: the resampler's own noise, at -80 dB
    difference = np.frombuffer(one[2], np.float32) - np.frombuffer(two[2], np.float32)
    assert np.abs(difference).max() < 1e-4


def test_seed_changes_order_and_random_crops(datasets):
  dataset = datasets("global random")
  assert collect(dataset, steps=3, seed=3) != collect(dataset, steps=3, seed=4)
  starts = {}
  for ids, _, waves in collect(dataset, steps=100):
    rows = np.frombuffer(waves, np.float32).reshape(BATCH, -1)
    for name, row in zip(ids, rows, strict=True):
      starts.setdefault(name, set()).add(row.tobytes())
  assert max(len(s) for s in starts.values()) > 2


def test_an_epoch_holds_every_clip_once(datasets):
  dataset = datasets("global")
  one = [i for ids, _, _ in collect(dataset, steps=len(dataset), batch=1) for i in ids]
  assert sorted(one) == sorted(dataset.ids)
  assert len(set(one)) == len(dataset)


def test_batch_fields(library):
  dataset = open_dataset(DataConfig(source=(str(library("set", 4)),), crop_seconds=0.08))
  with batches(dataset, batch_size=6, seed=0) as stream:
    batch = next(stream)
    assert stream.step == 1
    assert stream.wait_seconds > 0
    assert (stream.bad.count, stream.bad.names) == (0, ())
  assert batch["wave"].shape == (6, 1280)
  assert batch["wave"].dtype == np.float32
  assert batch["valid"].dtype == np.int32
  assert "labels" not in batch
  for wave, valid, name in zip(batch["wave"], batch["valid"], batch["id"], strict=True):
    number = int(name[:3])
    truth = tone(number, 0.1 * (0.6 + 0.3 * number))[:1280, 0]
    assert valid == len(truth)
    assert np.allclose(wave[:valid], truth, atol=1e-4)
    assert not wave[valid:].any()
  with pytest.raises(StopIteration):
    next(stream)


def test_batches_are_the_callers_own(library):
  dataset = open_dataset(DataConfig(source=(str(library("set", 4)),), crop_seconds=0.05))
  kept = list(batches(dataset, batch_size=2, seed=0, steps=12))
  again = list(batches(dataset, batch_size=2, seed=0, steps=12))
  for one, two in zip(kept, again, strict=True):
    assert np.array_equal(one["wave"], two["wave"])
    one["wave"][:] = -1.0


def test_evaluation_shows_every_clip_once_in_order(datasets):
  dataset = datasets("global")
  for hosts in (1, 2):
    streams = [evaluation_batches(dataset, 8, host_index=h, host_count=hosts) for h in range(hosts)]
    names, steps = [], 0
    for parts in zip(*streams, strict=True):
      steps += 1
      for part in parts:
        assert part["wave"].shape == (8 // hosts, 320)
        assert not part["wave"][~part["mask"]].any()
        names += part["id"][part["mask"]].tolist()
    assert names == list(dataset.ids)
    assert steps == -(-len(dataset) // 8)


def test_holdout_is_disjoint_stable_and_of_the_right_size(library):
  folder = str(library("set", 40))
  cfg = DataConfig(source=(folder,), holdout=0.25, crop_seconds=0.02)
  train, held = open_dataset(cfg, "train"), open_dataset(cfg, "holdout", seed=9)
  names = {i.split("#")[0] for i in train.ids}, {i.split("#")[0] for i in held.ids}
  assert names[0].isdisjoint(names[1])
  assert len(names[0] | names[1]) == 40
  assert names[1] == {n for n in map("{:03d}.flac".format, range(40)) if is_held_out(n, 0.25)}
  share = np.mean([is_held_out(f"{i}.wav", 0.25) for i in range(4000)])
  assert abs(share - 0.25) < 0.03
  with pytest.raises(DataError, match="set data.holdout"):
    open_dataset(DataConfig(source=(folder,)), "holdout")


def test_shares_are_nested_and_leave_the_held_out_part_alone(library):
  folders = (str(library("many", 60)), str(library("few", 12, seconds=0.4)))
  cfg = DataConfig(source=folders, holdout=0.2, crop_seconds=0.02)

  def recordings(share, seed=0):
    dataset = open_dataset(dataclasses.replace(cfg, share=share, share_seed=seed))
    assert (f"{100 * share:g} % of its audio" in dataset.describe()) == (share < 1)
    names = [{s.ids[i] for i in dataset.recordings_of(n)} for n, s in enumerate(dataset.sources)]
    return [{f"{n}/{name}" for name in each} for n, each in enumerate(names)], dataset.hours

  (whole, hours), last = recordings(1.0), [set(), set()]
  for share in (0.01, 0.1, 0.25, 0.5, 0.9):
    found, length = recordings(share)
    for before, each, all_of_it in zip(last, found, whole, strict=True):
      assert each  # of every source at least one
      assert before <= each <= all_of_it
    # Recordings are whole: the nearest length is within half of a long one.
    assert share < 0.1 or abs(length / hours - share) < 0.06
    last = found
  assert recordings(0.5) == recordings(0.5)
  assert recordings(0.5, seed=1)[0] != recordings(0.5)[0]
  held = [open_dataset(dataclasses.replace(cfg, share=s), "holdout").ids for s in (0.1, 1.0)]
  assert list(held[0]) == list(held[1])


def test_shard_order_needs_shards(library):
  dataset = open_dataset(DataConfig(source=(str(library("set", 4)),), order="shards"))
  with pytest.raises(DataError, match=r"has no shards; use data.order 'global'"):
    batches(dataset, batch_size=2, seed=0)


def test_sizes_that_do_not_fit(library):
  dataset = open_dataset(DataConfig(source=(str(library("set", 4)),)))
  with pytest.raises(DataError, match="try 8 or 12"):
    batches(dataset, batch_size=10, seed=0, host_count=4)
  with pytest.raises(DataError, match="must not be negative"):
    batches(dataset, batch_size=10, seed=0, start_step=-1)


def test_without_tensorflow(library, monkeypatch):
  monkeypatch.setattr(pipelines.batch.importlib.util, "find_spec", lambda name: None)
  folder = str(library("set", 4))
  before = set(threading.enumerate())
  with pytest.raises(DataError, match="pip install tensorflow-cpu"):
    batches(open_dataset(DataConfig(source=(folder,))), batch_size=2, seed=0)
  # Those that indexed the folder are about to end; nothing must have begun that nobody can end.
  for thread in set(threading.enumerate()) - before:
    thread.join(10)
    assert not thread.is_alive()
  cached = open_dataset(DataConfig(source=(folder,), cache="memory", crop_seconds=0.05))
  assert len(list(batches(cached, batch_size=2, seed=0, steps=3))) == 3
  corpus = open_dataset(DataConfig(source=("synthetic:6",), crop_seconds=0.5))
  batch = next(batches(corpus, batch_size=4, seed=0, steps=1))
  assert batch["labels"].shape == (4,)
  assert corpus.classes[batch["labels"][0]] in batch["id"][0]


def test_describe_is_one_line(datasets):
  text = datasets("mixed").describe()
  assert text.startswith("first, second: ")
  assert "\n" not in text


def test_tensorflow_sees_no_accelerator(library):
  tf = pytest.importorskip("tensorflow")
  dataset = open_dataset(DataConfig(source=(str(library("set", 4)),), crop_seconds=0.05))
  next(batches(dataset, batch_size=2, seed=0, steps=1))
  assert tf.config.get_visible_devices("GPU") == []


def test_more_audio_than_memory_is_refused(monkeypatch):
  monkeypatch.setattr(reader, "_free_bytes", lambda: 1000)
  dataset = open_dataset(DataConfig(source=("synthetic:4",), cache="memory", crop_seconds=1.0))
  with (
    pytest.raises(DataError, match=r"data.cache 'memory' would take .* set --data.cache none"),
    batches(dataset, batch_size=2, seed=0) as stream,
  ):
    next(stream)
