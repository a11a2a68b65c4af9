"""TAU scenes of 2020 and 2022: split, order, devices, windows over pieces, strange tables."""

import dataclasses

import numpy as np
import pytest
import soundfile

from pipelines import DataConfig, DataError, Dataset, batches, evaluation_batches
from pipelines.sets import open_set
from pipelines.sets.tau import GROUPS, device_of, parse_name
from tests.pipelines.sets.tau_files import write_audio, write_tables

CFG = DataConfig(sample_rate=32_000, crop_seconds=0.1, crop="single", cache="memory")
LISTED = (
  *("tram-lyon-1-2-0-a", "airport-oslo-3-4-9-s1", "tram-lyon-5-6-0-s4", "bus-lyon-1-2-3-b"),
  *("airport-oslo-3-4-0-a", "park-bonn-7-8-0-a"),
)
TRAIN, TEST = (LISTED[4], LISTED[1], LISTED[0]), (LISTED[3], LISTED[2])


@pytest.fixture
def tau22(tmp_path):
  write_tables(tmp_path, LISTED, {"train": TRAIN, "evaluate": TEST})
  write_audio(tmp_path, LISTED)
  return tmp_path


def told(labelled, part):
  """[(id, class name)] in the order of the clips."""
  dataset = Dataset(CFG, labelled.part(part))
  with evaluation_batches(dataset, len(dataset)) as found:
    batch = next(found)
  return [(str(i), labelled.classes[k]) for i, k in zip(batch["id"], batch["labels"], strict=True)]


def test_the_published_split_in_the_order_of_the_table(tau22):
  found = open_set(f"tau22={tau22}", CFG)
  assert found.classes == ("airport", "bus", "park", "tram")  # one of them in neither part
  assert (found.objective, found.fold) == ("classes", "")
  assert told(found, "train") == [
    (f"{LISTED[0]}.wav", "tram"),
    (f"{LISTED[1]}.wav", "airport"),
    (f"{LISTED[4]}.wav", "airport"),
  ]
  assert told(found, "test") == [(f"{LISTED[2]}.wav", "tram"), (f"{LISTED[3]}.wav", "bus")]
  assert told(open_set(f"tau22={tau22}", CFG, "1"), "test") == told(found, "test")


def test_devices_are_numbered_by_the_alphabet(tau22):
  devices = open_set(f"tau22={tau22}", CFG).devices
  assert (devices.names, devices.main) == (("a", "b", "s1", "s4"), "a")
  assert devices.numbers(f"audio/{name}.wav" for name in LISTED).tolist() == [0, 2, 3, 1, 0, 0]
  assert devices.groups == GROUPS
  assert sorted(sum(GROUPS.values(), ())) == ["a", "b", "c", *(f"s{i}" for i in range(1, 7))]


def test_the_set_of_2020_has_whole_recordings_and_devices(tmp_path):
  names = ["tram-lyon-1-2-a", "airport-oslo-3-4-s1", "tram-lyon-5-6-b"]
  write_tables(tmp_path, names, {"train": names[:2], "evaluate": names[2:]})
  write_audio(tmp_path, names)
  found = open_set(f"dcase20={tmp_path}", CFG)
  assert found.classes == ("airport", "tram")
  assert told(found, "train") == [(f"{names[0]}.wav", "tram"), (f"{names[1]}.wav", "airport")]
  assert told(found, "test") == [(f"{names[2]}.wav", "tram")]
  assert found.devices.names == ("a", "b", "s1")
  assert [device_of(name) for name in names] == ["a", "s1", "b"]
  with pytest.raises(DataError, match=r"line 2: city and device cannot be read from.*-piece-dev"):
    open_set(f"tau22={tmp_path}", CFG)


def test_names():
  name = parse_name("audio/metro_station-lisbon-1000-40000-7-s6.wav")
  assert name == ("metro_station-lisbon-1000-40000", "metro_station", "lisbon", 7, "s6")
  assert parse_name("metro-lisbon-1000-40000-b").piece == -1
  assert parse_name("metro.wav") is None
  assert device_of("metro.wav") == ""


@pytest.mark.parametrize(
  ("file", "old", "new", "match"),
  [
    ("meta.csv", f"audio/{LISTED[3]}.wav", "audio/bus.wav", "line 5: city and device cannot be"),
    ("meta.csv", "\tbus\t", "\ttram\t", "line 5: scene_label 'tram' and source_label 'b' contra"),
    ("meta.csv", "\tlyon-1\tb", "\tlyon-1\tc", "line 5: .*source_label 'c' contradict the name"),
    ("meta.csv", LISTED[4], LISTED[1], "line 6: .*contradict"),
    ("meta.csv", "\tlyon-1\tb", "\tlyon-1", "line 5: source_label is empty"),
    ("meta.csv", "source_label", "device", "lacks the column 'source_label'"),
    ("evaluation_setup/fold1_train.csv", LISTED[4], "tram-x-1-2-3-a", "which meta.csv does not"),
    ("evaluation_setup/fold1_evaluate.csv", "", None, r"no table at .*fold1_evaluate\.csv"),
    ("audio", "", None, r"no file or folder .*audio"),
  ],
)
def test_strange_tables_are_told_in_a_line(tau22, file, old, new, match):
  path = tau22 / file
  if new is None:
    path.rename(path.with_name("gone"))
  else:
    path.write_text(path.read_text().replace(old, new, 1))
  with pytest.raises(DataError, match=match) as error:
    open_set(f"tau22={tau22}", CFG)
  assert "\n" not in str(error.value)


def test_a_file_that_is_listed_twice_and_a_fold_that_is_none(tau22):
  with pytest.raises(DataError, match=r"fold '2'; the set is published with fold 1 alone"):
    open_set(f"tau22={tau22}", CFG, "2")
  with (tau22 / "meta.csv").open("a") as table:
    table.write(f"audio/{LISTED[0]}.wav\ttram\tlyon-1\ta\n")
  with pytest.raises(DataError, match=r"line 8: .*is listed twice"):
    open_set(f"tau22={tau22}", CFG)


def test_a_recording_that_is_absent_is_no_other_one(tau22):
  (tau22 / "audio" / f"{LISTED[1]}.wav").unlink()
  found = open_set(f"tau22={tau22}", dataclasses.replace(CFG, max_bad_share=0.5))
  assert found.part("train")[0].skipped == [(f"{LISTED[1]}.wav", "absent")]


@pytest.fixture
def cut(tmp_path):
  """A recording of ten pieces on two devices; one piece of the second is in neither part."""
  names = [f"bus-lyon-1-2-{piece}-{device}" for device in "ab" for piece in range(10)]
  write_tables(
    tmp_path, names, {"train": [n for n in names if n[-3] != "6"], "evaluate": names[6:7]}
  )
  rng = np.random.default_rng(0)
  (tmp_path / "audio").mkdir()
  waves = {}
  for device in "ab":
    waves[device] = rng.uniform(-0.5, 0.5, 10 * 3_200).astype(np.float32)
    for piece, wave in enumerate(np.split(waves[device], 10)):
      path = tmp_path / "audio" / f"bus-lyon-1-2-{piece}-{device}.wav"
      soundfile.write(path, wave, 32_000, subtype="FLOAT")
  return tmp_path, waves


def test_windows_at_any_place_with_their_middle_in_the_piece(cut):
  folder, waves = cut
  found = open_set(f"tau22_joined={folder}", CFG)
  dataset = Dataset(CFG, found.part("train"))
  assert len(dataset) == 18  # an epoch has as many windows as pieces
  middles = {name: [] for name in dataset.ids}
  with batches(dataset, batch_size=18, seed=3, steps=40) as steps:
    for batch in steps:
      assert sorted(batch["id"]) == sorted(middles)
      assert set(batch["labels"]) == {0}
      assert set(batch["valid"]) == {3_200}
      for name, window in zip(batch["id"], batch["wave"], strict=True):
        wave = waves[device_of(str(name))]
        starts = np.flatnonzero(wave[: -3_200 + 1] == window[0])
        (start,) = (s for s in starts if np.array_equal(wave[s : s + 3_200], window))
        middles[str(name)].append(start + 1_600)
  for name, found_at in middles.items():
    piece = parse_name(name).piece
    inside = np.array(found_at) - 3_200 * piece
    # Nothing before the first piece of a stretch, nothing behind the last: 5 and 7 are ends too.
    low, high = 1_600 * (piece in (0, 7)), 3_200 - 1_600 * (piece in (5, 9))
    assert low <= inside.min() < low + 500
    assert high - 500 < inside.max() <= high


def test_windows_are_a_function_of_seed_and_step(cut):
  dataset = Dataset(CFG, open_set(f"tau22_joined={cut[0]}", CFG).part("train"))

  def drawn(seed, start, **how):
    cfg = dataclasses.replace(CFG, **how)
    with batches(Dataset(cfg, dataset.sources), batch_size=5, seed=seed, start_step=start) as steps:
      return next(steps)

  whole, again = drawn(0, 7), drawn(0, 7, cache="none", workers=1)
  np.testing.assert_array_equal(whole["wave"], again["wave"])
  assert not np.array_equal(whole["wave"], drawn(1, 7)["wave"])


def test_pieces_are_joined_in_training_alone(cut):
  found, plain = (open_set(f"{name}={cut[0]}", CFG) for name in ("tau22_joined", "tau22"))
  (train,), (test,) = found.part("train"), found.part("test")
  assert list(train.ids) == list(plain.part("train")[0].ids)
  assert test.frames.tolist() == [3_200]
  assert (found.name, found.devices.names) == ("tau22_joined", ("a", "b"))
  # A teacher hears the pieces: what it says is stored once, and its rows are theirs.
  (heard,), (pieces,) = found.heard("train"), plain.part("train")
  assert list(heard.ids) == list(pieces.ids)
  np.testing.assert_array_equal(heard.frames, pieces.frames)
  with pytest.raises(DataError, match=r"tau22_joined: .*--data\.crop single, not random"):
    open_set(f"tau22_joined={cut[0]}", dataclasses.replace(CFG, crop="random"))
