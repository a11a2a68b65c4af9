"""Labelled sets on small files of the true layout."""

import dataclasses
from pathlib import PurePosixPath

import numpy as np
import pytest
import soundfile

from pipelines import DataConfig, DataError, Dataset, batches, evaluation_batches
from pipelines.importance import label_weights, weighted_draw
from pipelines.sets import SETS, open_set
from pipelines.sets.tagged import youtube_id
from tests.pipelines.conftest import tone

CFG = DataConfig(
  sample_rate=32_000, crop_seconds=0.1, crop="single", cache="memory", max_bad_share=0.2
)


def write(path, number, seconds=0.1, rate=32_000):
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, tone(number, seconds, rate), rate)


def text(path, *lines):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(f"{line}\n" for line in lines))


def ids(labelled, part):
  return [str(name) for source in labelled.part(part) for name in source.ids]


def labels(labelled, part):
  """{id: class name, or set of tags}, as the batches of a data set have them."""
  found = {}
  for source in labelled.part(part):
    dataset = Dataset(CFG, [source])
    assert dataset.classes == labelled.classes
    with evaluation_batches(dataset, 4) as rows:
      for batch in rows:
        for name, label, real in zip(batch["id"], batch["labels"], batch["mask"], strict=True):
          if real:
            tags = {labelled.classes[i] for i in np.flatnonzero(label)} if label.ndim else None
            found[str(name)] = labelled.classes[label] if tags is None else tags
  return found


@pytest.fixture
def esc(tmp_path):
  rows = ["filename,fold,target,category"]
  for n in range(10):
    # Targets out of order, one of them in ESC-10; the audio in another format than listed.
    target, category = ((7, "rooster"), (0, "dog"), (3, "cow"))[n % 3]
    rows.append(f"clip{n}.wav,{n % 5 + 1},{target},{category}")
    if n != 9:
      write(tmp_path / "audio" / f"clip{n}.flac", n)
  text(tmp_path / "meta" / "esc50.csv", *rows)
  return tmp_path


def test_esc_leaves_one_fold_out_and_orders_classes_by_target(esc):
  found = open_set(f"esc50={esc}", CFG, "2")
  assert found.classes == ("dog", "cow", "rooster")
  assert found.objective == "classes"
  assert labels(found, "test") == {"clip1.flac": "dog", "clip6.flac": "rooster"}
  train = labels(found, "train")
  assert len(train) == 7
  assert train["clip2.flac"] == "cow"
  assert found.part("train")[0].skipped == [("clip9.wav", "absent")]
  assert set(ids(open_set(f"esc10={esc}", CFG, "5"), "train")) == {"clip1.flac", "clip7.flac"}


def test_spoken_digits_leave_a_speaker_out(tmp_path):
  for n, speaker in enumerate(("anna", "ben", "anna")):
    write(tmp_path / "recordings" / f"{7 + n}_{speaker}_0.wav", n, rate=8_000)
  found = open_set(f"spoken_digits={tmp_path}", CFG, "ben")
  assert labels(found, "train") == {"7_anna_0.wav": "7", "9_anna_0.wav": "9"}
  assert labels(found, "test") == {"8_ben_0.wav": "8"}
  assert len(found.classes) == 10
  with pytest.raises(DataError, match=r"no speaker 'eva'; there are anna, ben"):
    open_set(f"spoken_digits={tmp_path}", CFG, "eva")


def test_a_folder_for_each_class(tmp_path):
  for n in range(40):
    write(tmp_path / ("10", "2")[n % 2] / f"{n}.wav", n)
  found = open_set(f"folder={tmp_path}", CFG)
  assert found.classes == ("10", "2")
  every = labels(found, "train") | labels(found, "test")
  assert len(every) == 40
  assert all(name.split("/")[0] == label for name, label in every.items())
  assert 2 <= len(ids(found, "test")) <= 14
  write(tmp_path / "loose.wav", 1)
  with pytest.raises(DataError, match=r"loose\.wav lies in no folder of a class"):
    open_set(f"folder={tmp_path}", CFG)


def test_a_folder_of_damaged_files_says_so(tmp_path):
  (tmp_path / "cat").mkdir()
  (tmp_path / "cat" / "x.wav").write_bytes(b"no audio")
  with pytest.raises(DataError, match=r"none of its 1 recordings can be used \(such as cat/x"):
    open_set(f"folder={tmp_path}", CFG)


def test_a_folder_that_is_split_already(tmp_path):
  for part in ("train", "test", "val"):
    for label in ("cat", "dog"):
      write(tmp_path / part / label / "x.wav", len(part + label))
  found = open_set(f"folder={tmp_path}", CFG)
  assert labels(found, "test") == {"test/cat/x.wav": "cat", "test/dog/x.wav": "dog"}
  assert set(found.parts) == {"train", "test", "validation"}


def test_a_table_with_parts_and_tags(tmp_path):
  rows = ["path,label,split"]
  for n in range(4):
    write(tmp_path / f"{n}.wav", n)
    rows.append(f"{n}.wav,{('b', 'a;b')[n % 2]},{('train', 'test')[n // 2]}")
  text(tmp_path / "own.csv", *rows)
  found = open_set(f"table={tmp_path}/own.csv", CFG)
  assert (found.classes, found.objective) == (("a", "b"), "tags")
  assert labels(found, "train") == {"0.wav": {"b"}, "1.wav": {"a", "b"}}
  assert labels(found, "test") == {"2.wav": {"b"}, "3.wav": {"a", "b"}}
  text(tmp_path / "own.csv", *rows[:-1], "3.wav,b,tset")
  with pytest.raises(DataError, match=r"puts 3\.wav into split 'tset'"):
    open_set(f"table={tmp_path}/own.csv", CFG)


def test_published_segment_lists(tmp_path):
  """Ids as the publishers write them, with and without the Y that downloaders put before them."""
  names = {f"/m/{i:02d}": f"Class {i}" for i in range(527)}
  text(
    tmp_path / "class_labels_indices.csv",
    "index,mid,display_name",
    *(f'{i},{mid},"{name}"' for i, (mid, name) in enumerate(names.items())),
  )
  head = "# Segments csv created Sun Mar  5 10:54:31 2017"
  for part, tags in (("balanced_train", "/m/03,/m/07"), ("eval", "/m/526")):
    text(
      tmp_path / f"{part}_segments.csv",
      head,
      f'--abcdefghi, 0.000, 10.000, "{tags}"',
      'absent00000, 30.000, 40.000, "/m/01"',
    )
  write(tmp_path / "balanced_train_segments" / "Y--abcdefghi.flac", 1)
  write(tmp_path / "eval_segments" / "a" / "--abcdefghi_0.flac", 2)
  found = open_set(f"audioset={tmp_path}", CFG)
  assert labels(found, "train") == {"Y--abcdefghi.flac": {"Class 3", "Class 7"}}
  assert labels(found, "test") == {"a/--abcdefghi_0.flac": {"Class 526"}}
  assert found.part("train")[0].skipped == []


def test_fsd50k_as_published(tmp_path):
  truth = tmp_path / "FSD50K.ground_truth"
  text(truth / "vocabulary.csv", *(f"{i},Tag_{i},/m/{i}" for i in range(200)))
  text(
    truth / "dev.csv",
    "fname,labels,mids,split",
    '1,"Tag_3,Tag_4",/m/3,train',
    "2,Tag_199,/m/199,val",
  )
  text(truth / "eval.csv", "fname,labels,mids", "3,Tag_0,/m/0")
  for n, which in ((1, "dev"), (2, "dev"), (3, "eval")):
    write(tmp_path / f"FSD50K.{which}_audio" / f"{n}.wav", n)
  found = open_set(f"fsd50k={tmp_path}", CFG)
  assert labels(found, "train") == {"1.wav": {"Tag_3", "Tag_4"}}
  assert labels(found, "validation") == {"2.wav": {"Tag_199"}}
  assert labels(found, "test") == {"3.wav": {"Tag_0"}}


def openmic_folder(folder, *more):
  for n, key in enumerate(("000046_3840", "000135_483840", "000139_119040")):
    write(folder / "audio" / key[:3] / f"{key}.ogg", n)
  text(
    folder / "openmic-2018-aggregated-labels.csv",
    "sample_key,instrument,relevance,num_responses",
    "000046_3840,clarinet,0.17105,3",
    "000046_3840,flute,0.0,3",
    "000135_483840,voice,1.0,5",
    "000139_119040,accordion,0.5,3",
    *more,
  )
  text(folder / "partitions" / "split01_train.csv", "000139_119040", "000046_3840", "000999_1")
  text(folder / "partitions" / "split01_test.csv", "000135_483840")
  return f"openmic={folder}"


def test_openmic_as_published(tmp_path):
  found = open_set(openmic_folder(tmp_path), CFG)
  train = Dataset(dataclasses.replace(CFG, max_bad_share=0.5), found.part("train"))
  assert [PurePosixPath(x).stem for x in ids(found, "train")] == ["000139_119040", "000046_3840"]
  marks, judged = (train.fields[name](np.arange(2)) for name in ("labels", "judged"))
  clarinet, flute = (found.classes.index(name) for name in ("clarinet", "flute"))
  assert np.argwhere(judged).tolist() == [[0, 0], [1, clarinet], [1, flute]]
  assert marks[1, clarinet] == np.float32(0.17105)
  assert marks[1, flute] == 0
  assert set(marks[judged == 0]) == {0.5}
  assert [name for name, _ in found.part("train")[0].skipped] == ["000999_1"]


@pytest.mark.parametrize(
  ("row", "message"),
  [
    ("000046_3840,kazoo,0.5,3", "line 6: expected one of the 20 instruments.*'kazoo'"),
    ("000046_3840,flute,1.5,3", "line 6.*'1.5'"),
    ("000046_3840,flute,often,3", "line 6.*'often'"),
  ],
)
def test_judgements_that_are_none(tmp_path, row, message):
  with pytest.raises(DataError, match=message):
    open_set(openmic_folder(tmp_path, row), CFG)


def test_a_clip_that_nobody_judged(tmp_path):
  spec = openmic_folder(tmp_path)
  text(
    tmp_path / "openmic-2018-aggregated-labels.csv", "sample_key,instrument,relevance", "a,flute,1"
  )
  with pytest.raises(DataError, match="says nothing of 000139_119040"):
    open_set(spec, CFG)


@pytest.mark.parametrize(
  ("name", "id_"),
  [
    ("Y--PJHxphWEs.mp3", "--PJHxphWEs"),
    ("--PJHxphWEs_30000", "--PJHxphWEs"),
    ("a/b/YYYYYYYYYYYY.flac", "YYYYYYYYYYY"),
    ("YYYYYYYYYYY.flac", "YYYYYYYYYYY"),
    ("some_other_file.wav", "some_other_file"),
  ],
)
def test_ids_of_videos(name, id_):
  assert youtube_id(name) == id_


def test_rare_classes_are_drawn_more_often(tmp_path):
  for n in range(60):
    write(tmp_path / ("rare" if n % 10 == 0 else "common") / f"{n}.wav", n)
  text(tmp_path / "own.csv", "path,label,split", *_listed(tmp_path))
  found = open_set(f"table={tmp_path}/own.csv", CFG)
  cfg = DataConfig(**{**CFG.__dict__, "order": "importance", "samples_per_epoch": 20})
  dataset = Dataset(cfg, found.part("train"))
  assert dataset.order(0).clips_per_epoch == 20
  with batches(dataset, batch_size=10, seed=0, steps=40) as steps:
    rows = [(batch["id"], batch["labels"]) for batch in steps]
  weights = label_weights(np.eye(2)[dataset.labels])
  assert len(np.unique(weights)) == 2
  for epoch, (first, second) in enumerate(zip(rows[::2], rows[1::2], strict=True)):
    drawn = [dataset.ids[i] for i in weighted_draw(weights, 20, 0, epoch)]
    assert [*first[0], *second[0]] == drawn
  with batches(dataset, batch_size=10, seed=0, start_step=21, steps=1) as steps:
    assert list(next(steps)["id"]) == list(rows[21][0])


def _listed(folder):
  """Every recording for training but one of each class."""
  parts = {"common/1.wav": "test", "rare/50.wav": "test"}
  names = sorted(str(p.relative_to(folder)) for p in folder.glob("*/*.wav"))
  return [f"{n},{n.split('/')[0]},{parts.get(n, 'train')}" for n in names if n != "rare/50.wav"] + [
    "rare/50.wav,rare,test"
  ]


def test_what_cannot_be_opened_says_what_to_write(tmp_path, esc):
  for spec, fold, match in (
    ("esc5=x", "", r"unknown; did you mean esc50=PATH"),
    ("zzz=x", "", r"write NAME=PATH with audioset, audioset_weak"),
    ("esc50=/nowhere", "", r"no folder at '/nowhere'"),
    (f"esc50={esc}", "6", r"fold '6' is not one of 1, 2, 3, 4, 5"),
    (f"dcase20={esc}", "", r"no table at .*meta\.csv"),
    (f"audioset={esc}", "", r"holds neither balanced_train_segments_mp3\.hdf nor"),
    (f"openmic={esc}", "", r"no file .*openmic_train\.csv_mp3\.hdf"),
    (f"folder={esc}", "x", r"has no folds"),
    (f"table={esc}", "", r"no table at"),
  ):
    with pytest.raises(DataError, match=match) as error:
      open_set(spec, CFG, fold)
    assert "\n" not in str(error.value)
  assert set(SETS) >= {"audioset", "openmic", "fsd50k", "esc50", "dcase20", "folder", "table"}
