"""HDF5 files of the true layout, and damaged and hostile ones."""

import io

import numpy as np
import pytest
import soundfile

from pipelines import DataConfig, DataError, Dataset, evaluation_batches, open_dataset
from pipelines.sets import open_set
from pipelines.sources import hdf5
from pipelines.sources.hdf5 import HDF5Source
from tests.pipelines.conftest import tone

h5py = pytest.importorskip("h5py")
CFG = DataConfig(sample_rate=32_000, crop_seconds=0.2, crop="single", max_bad_share=0.3)
NAMES = ["Y--PJHxphWEs", "Yabcdefghijk", "Y__________0"]


def mp3(number, seconds=0.2):
  file = io.BytesIO()
  soundfile.write(file, tone(number, seconds, 32_000), 32_000, format="MP3")
  return file.getvalue()


def write(path, targets, payloads=None, names=NAMES):
  payloads = payloads or [mp3(n) for n in range(len(names))]
  with h5py.File(path, "w") as file:
    coded = [f"{name}.mp3".encode() for name in names]
    file.create_dataset("audio_name", data=np.array(coded, "S20"))
    audio = file.create_dataset("mp3", (len(payloads),), h5py.vlen_dtype(np.dtype("uint8")))
    for i, payload in enumerate(payloads):
      audio[i] = np.frombuffer(payload, np.uint8)
    if targets is not None:
      file.create_dataset("target", data=targets)


def packed(classes, *tags):
  rows = np.zeros((len(tags), classes), bool)
  for row, marks in zip(rows, tags, strict=True):
    row[list(marks)] = True
  return np.packbits(rows, axis=1)


def read_all(dataset):
  with evaluation_batches(dataset, len(dataset)) as batches:
    return next(batches)


def test_waves_are_those_of_the_encoded_files(tmp_path):
  write(tmp_path / "x.hdf", None)
  dataset = open_dataset(DataConfig(**{**CFG.__dict__, "source": (f"{tmp_path}/x.hdf",)}), "all")
  batch = read_all(dataset)
  assert list(batch["id"]) == NAMES
  assert "labels" not in batch
  for n, wave in enumerate(batch["wave"]):
    want, rate = soundfile.read(io.BytesIO(mp3(n)), dtype="float32")
    assert rate == 32_000
    np.testing.assert_array_equal(wave, want[: len(wave)])


def test_audioset_and_its_packed_tags(tmp_path):
  write(tmp_path / "balanced_train_segments_mp3.hdf", packed(527, {0, 8}, {526}, set()))
  write(
    tmp_path / "unbalanced_train_segments_mp3.hdf", packed(527, {1}), [mp3(5)], ["Yother000000"]
  )
  write(tmp_path / "eval_segments_mp3.hdf", packed(527, {2}, {3}, {4}))
  found = open_set(f"audioset={tmp_path}", CFG)
  dataset = Dataset(CFG, found.part("train"))
  assert len(dataset) == 4
  batch = read_all(dataset)
  assert batch["labels"].dtype == np.float32
  assert [set(np.flatnonzero(row)) for row in batch["labels"]] == [{0, 8}, {526}, set(), {1}]
  assert dataset.labels is None
  assert read_all(Dataset(CFG, found.part("test")))["labels"].sum() == 3
  padded = dataset.labels_of(np.array([1, -1]))
  assert padded.sum(axis=1).tolist() == [1.0, 0.0]


def test_audioset_validated_on_its_balanced_clips(tmp_path):
  """They are trained on too, with the unbalanced ones or alone."""
  for name in ("balanced_train", "unbalanced_train", "eval"):
    write(tmp_path / f"{name}_segments_mp3.hdf", packed(527, {0}, {1}, {2}))
  for name, train in (("audioset_weak", 6), ("audioset_balanced", 3)):
    found = open_set(f"{name}={tmp_path}", CFG)
    sizes = {part: len(Dataset(CFG, found.part(part))) for part in found.parts}
    assert (found.name, sizes) == (name, {"train": train, "validation": 3, "test": 3})
    assert found.part("validation")[0] is found.part("train")[0]
  (tmp_path / "balanced_train_segments_mp3.hdf").unlink()
  with pytest.raises(DataError, match="audioset_weak: .* lacks one of balanced_train_segments"):
    open_set(f"audioset_weak={tmp_path}", CFG)


def test_openmic_and_what_was_judged(tmp_path):
  table = np.full((3, 40), 0.5, np.float64)
  table[:, 20:] = 0
  table[0, [3, 23]] = 0.9, 1
  for part in ("train", "test"):
    write(tmp_path / f"openmic_{part}.csv_mp3.hdf", table)
  batch = read_all(Dataset(CFG, open_set(f"openmic={tmp_path}", CFG).part("train")))
  assert batch["labels"].shape == batch["judged"].shape == (3, 20)
  assert batch["labels"][0, 3] == np.float32(0.9)
  assert batch["judged"].sum() == batch["judged"][0, 3] == 1
  table[1, 25] = 2
  (tmp_path / "other").mkdir()
  write(tmp_path / "other" / "openmic_train.csv_mp3.hdf", table)
  with pytest.raises(DataError, match="must be 20 probabilities and as many marks"):
    open_set(f"openmic={tmp_path}/other", CFG)


def test_fsd50k_without_a_vocabulary(tmp_path):
  for name in ("train", "val", "eval"):
    write(tmp_path / f"FSD50K.{name}_mp3.hdf", packed(200, {0}, {199}, {5}))
  found = open_set(f"fsd50k={tmp_path}", CFG)
  assert (len(found.classes), set(found.parts)) == (200, {"train", "validation", "test"})


def test_a_damaged_recording_is_named_and_left_out(tmp_path):
  path = tmp_path / "x.hdf"
  write(path, packed(10, {0}, {1}, {2}), [mp3(0), b"no audio", mp3(2)])
  source = HDF5Source(str(path), CFG)
  assert list(source.ids) == [NAMES[0], NAMES[2]]
  assert source.skipped[0][0] == NAMES[1]
  marks = np.unpackbits(source.targets_in(), axis=1, count=10)
  assert [set(np.flatnonzero(row)) for row in marks] == [{0}, {2}]
  np.testing.assert_array_equal(
    source.read(1, 0, 100)[0], HDF5Source(str(path), CFG).read(1, 0, 100)[0]
  )


def test_the_second_start_looks_at_no_recording(tmp_path, monkeypatch):
  path = tmp_path / "x.hdf"
  write(path, None)
  monkeypatch.setattr(hdf5.index, "at_rest", lambda mtime: True)
  first = HDF5Source(str(path), CFG)
  monkeypatch.setattr(hdf5.index, "header_or_reason", lambda *_: pytest.fail("was read again"))
  second = HDF5Source(str(path), CFG)
  assert list(first.frames) == list(second.frames)


def test_hostile_and_foreign_files_are_refused(tmp_path):
  secret = tmp_path / "secret.bin"
  secret.write_bytes(bytes(range(64)))
  path = tmp_path / "x.hdf"

  def refused(match, fill):
    with h5py.File(path, "w") as file:
      fill(file)
    with pytest.raises(DataError, match=match) as error:
      HDF5Source(str(path), CFG)
    assert "\n" not in str(error.value)

  def names(file, values=(b"a.mp3", b"b.mp3")):
    file.create_dataset("audio_name", data=np.array(values))

  def elsewhere(file):
    names(file)
    file.create_dataset("mp3", (64,), "u1", external=[(str(secret), 0, 64)])

  def linked(file):
    names(file)
    file["mp3"] = h5py.ExternalLink(str(tmp_path / "other.hdf"), "/x")

  def unequal(file):
    names(file)
    file.create_dataset("mp3", data=np.zeros(3, "u1"))

  def twice(file):
    names(file, (b"a.mp3", b"a.mp3"))
    file.create_dataset("mp3", data=np.zeros(2, "u1"))

  refused("no dataset of this very file", elsewhere)
  refused("no dataset of this very file", linked)
  refused("must be lists of the same length", unequal)
  refused("'a' is there twice", twice)
  refused("no dataset 'audio_name'", lambda file: None)
  path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
  with pytest.raises(DataError, match="no sound HDF5 file"):
    HDF5Source(str(path), CFG)
  write(path, packed(20, {0}, {1}, {2}))
  path.rename(tmp_path / "eval_segments_mp3.hdf")
  write(tmp_path / "balanced_train_segments_mp3.hdf", packed(520, {0}, {1}, {2}))
  with pytest.raises(DataError, match=r"balanced_train_\S+: .* no packed bits of 527"):
    open_set(f"audioset={tmp_path}", CFG)
