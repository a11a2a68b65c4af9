"""The sets of the transfer study, on small trees of the published layout."""

import json

import pytest

from pipelines import DataError
from pipelines.sets import open_set
from pipelines.sets.listed import Clip, nine_tenths, without_suffix
from tests.pipelines.sets.test_sets import CFG, ids, labels, text, write


def test_urbansound8k_leaves_one_of_ten_folds_out(tmp_path):
  rows = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
  for n, (fold, number, name) in enumerate(
    [(1, 3, "dog_bark"), (10, 0, "air_conditioner"), (2, 3, "dog_bark")]
  ):
    rows.append(f"{n}-{number}-0-0.wav,{n},0.0,4.0,1,{fold},{number},{name}")
    write(tmp_path / "audio" / f"fold{fold}" / f"{n}-{number}-0-0.wav", n)
  text(tmp_path / "metadata" / "UrbanSound8K.csv", *rows)
  found = open_set(f"urbansound8k={tmp_path}", CFG, "10")
  assert found.classes == ("air_conditioner", "dog_bark")
  assert labels(found, "test") == {"fold10/1-0-0-0.wav": "air_conditioner"}
  assert set(ids(found, "train")) == {"fold1/0-3-0-0.wav", "fold2/2-3-0-0.wav"}
  assert len(found.folds) == 10
  assert open_set(f"urbansound8k={tmp_path}", CFG).fold == "1"
  with pytest.raises(DataError, match="fold '11' is not one of 1, 2"):
    open_set(f"urbansound8k={tmp_path}", CFG, "11")
  text(tmp_path / "metadata" / "UrbanSound8K.csv", *rows, "x.wav,9,0,4,1,1,0,dog_bark")
  with pytest.raises(DataError, match="must give every classID one class"):
    open_set(f"urbansound8k={tmp_path}", CFG)


def test_fsdkaggle2018_has_one_tag_for_each_clip(tmp_path):
  meta = tmp_path / "FSDKaggle2018.meta"
  rows = [f"{n:08x}.wav,{('Cough', 'Bark')[n % 2]},0,{n},CC0" for n in range(20)]
  head = "fname,label,manually_verified,freesound_id,license"
  text(meta / "train_post_competition.csv", head, *rows)
  head = "fname,label,usage,freesound_id,license"
  text(meta / "test_post_competition_scoring_clips.csv", head, "aa.wav,Bark,Public,1,CC0")
  for n in range(20):
    write(tmp_path / "FSDKaggle2018.audio_train" / f"{n:08x}.wav", n)
  write(tmp_path / "FSDKaggle2018.audio_test" / "aa.wav", 1)
  found = open_set(f"fsdkaggle2018={tmp_path}", CFG)
  assert (found.classes, found.objective) == (("Bark", "Cough"), "tags")
  assert found.metric == "mAP_at_3"
  assert labels(found, "test") == {"aa.wav": {"Bark"}}
  assert [len(ids(found, part)) for part in ("train", "validation")] == [18, 2]
  text(meta / "test_post_competition_scoring_clips.csv", head, "aa.wav,Meow,Public,1,CC0")
  with pytest.raises(DataError, match=r"aa\.wav of part test has the label 'Meow'"):
    open_set(f"fsdkaggle2018={tmp_path}", CFG)


@pytest.mark.parametrize("which", ["curated", "noisy"])
def test_fsdkaggle2019(tmp_path, which):
  for part, count in (("train_curated", 4), ("train_noisy", 3), ("test", 1)):
    rows = ["fname,labels,freesound_id,license"]
    for n in range(count):
      rows.append(f'{part}{n}.wav,"{("Bark,Meow", "Meow")[n % 2]}",{n},CC0')
      write(tmp_path / f"FSDKaggle2019.audio_{part}" / f"{part}{n}.wav", n)
    text(tmp_path / "FSDKaggle2019.meta" / f"{part}_post_competition.csv", *rows)
  found = open_set(f"fsdkaggle2019_{which}={tmp_path}", CFG)
  assert (found.classes, found.metric) == (("Bark", "Meow"), "lwlrap")
  assert labels(found, "test") == {"test0.wav": {"Bark", "Meow"}}
  every = labels(found, "train") | labels(found, "validation")
  assert len(every) == {"curated": 4, "noisy": 3}[which]
  assert every[f"train_{which}1.wav"] == {"Meow"}


def test_nsynth_takes_families_from_its_notes(tmp_path):
  for part, notes in (
    ("train", (("bass", 0), ("organ", 6))),
    ("valid", (("organ", 6),)),
    ("test", (("bass", 0),)),
  ):
    about = {}
    for n, (family, number) in enumerate(notes):
      about[f"{family}_{part}_{n:03d}"] = {
        "instrument_family": number,
        "instrument_family_str": family,
        "pitch": 60,
      }
      write(tmp_path / f"nsynth-{part}" / "audio" / f"{family}_{part}_{n:03d}.wav", n)
    (tmp_path / f"nsynth-{part}" / "examples.json").write_text(json.dumps(about))
  found = open_set(f"nsynth={tmp_path}", CFG)
  assert found.classes == ("bass", "organ")
  assert labels(found, "validation") == {"organ_valid_000.wav": "organ"}
  (tmp_path / "nsynth-test" / "examples.json").write_text('{"bass_test_000": {"pitch": 3}}')
  with pytest.raises(DataError, match="must hold instrument_family"):
    open_set(f"nsynth={tmp_path}", CFG)


def test_msos_splits_a_tenth_off(tmp_path):
  rows = ["Category,Event,File"]
  for n in range(10):
    category = ("Nature", "Urban")[n % 2]
    rows.append(f"{category},Event,{n}.wav")
    write(tmp_path / "Development" / category / f"{n}.wav", n)
  text(tmp_path / "Logsheet_Development.csv", *rows)
  text(tmp_path / "Logsheet_EvaluationMaster.csv", "Category,Event,File", "Urban,Bus,e.wav")
  write(tmp_path / "Evaluation" / "e.wav", 1)
  found = open_set(f"msos={tmp_path}", CFG)
  assert labels(found, "test") == {"e.wav": "Urban"}
  train, validation = (set(ids(found, part)) for part in ("train", "validation"))
  assert (len(train), len(validation)) == (9, 1)
  assert not train & validation


def test_ravdess_keeps_actors_apart(tmp_path):
  inner = tmp_path / "Audio_Speech_Actors_01-24"
  for actor, emotion in ((1, 1), (6, 8), (7, 3), (24, 5)):
    write(inner / f"Actor_{actor:02d}" / f"03-01-{emotion:02d}-01-02-01-{actor:02d}.wav", actor)
  write(inner / "Actor_01" / "03-02-04-01-02-01-01.wav", 3)
  found = open_set(f"ravdess={tmp_path}", CFG, "1")
  assert labels(found, "test") == {
    "Actor_01/03-01-01-01-02-01-01.wav": "neutral",
    "Actor_06/03-01-08-01-02-01-06.wav": "surprised",
  }
  assert set(labels(found, "train").values()) == {"happy", "angry"}
  assert len(found.classes) == 8


def test_speech_commands_by_their_lists(tmp_path):
  words = {"yes": "test", "go": "train", "bed": "train", "cat": "validation"}
  for n, word in enumerate(words):
    write(tmp_path / word / "0a_nohash_0.wav", n)
  write(tmp_path / "_background_noise_" / "hum.wav", 9)
  text(tmp_path / "testing_list.txt", "yes/0a_nohash_0.wav")
  text(tmp_path / "validation_list.txt", "cat/0a_nohash_0.wav")
  eleven = open_set(f"speech_commands_v1={tmp_path}", CFG)
  assert len(eleven.classes) == 11
  assert labels(eleven, "train") == {"go/0a_nohash_0.wav": "go", "bed/0a_nohash_0.wav": "unknown"}
  assert labels(eleven, "validation") == {"cat/0a_nohash_0.wav": "unknown"}
  text(tmp_path / "testing_list.txt", "go/0a_nohash_0.wav")
  text(tmp_path / "validation_list.txt", "bed/0a_nohash_0.wav")
  write(tmp_path / "go" / "1_nohash_0.wav", 5)
  write(tmp_path / "bed" / "1_nohash_0.wav", 6)
  for name in ("speech_commands_v1_30", "speech_commands_v2"):
    every = open_set(f"{name}={tmp_path}", CFG)
    assert every.classes == ("bed", "cat", "go", "yes")
    assert labels(every, "test") == {"go/0a_nohash_0.wav": "go"}
  for path in list(tmp_path.glob("*/*.wav")):  # lists still say .wav
    path.rename(path.with_suffix(".flac"))
  flac = open_set(f"speech_commands_v2={tmp_path}", CFG)
  assert labels(flac, "test") == {"go/0a_nohash_0.flac": "go"}
  heard = [set(labels(flac, part)) for part in ("train", "validation", "test")]
  assert not heard[0] & (heard[1] | heard[2])
  (tmp_path / "testing_list.txt").write_bytes(b"\xff\xfe")
  with pytest.raises(DataError, match=r"testing_list\.txt' cannot be read \(no UTF-8"):
    open_set(f"speech_commands_v2={tmp_path}", CFG)


def test_fluent_speech_commands_has_intents(tmp_path):
  rows = {
    "train": ("a,change language,none,none", "b,activate,lights,kitchen"),
    "valid": ("c,activate,lights,kitchen",),
    "test": ("d,change language,none,none",),
  }
  for part, lines in rows.items():
    table = [",path,speakerId,transcription,action,object,location"]
    for n, line in enumerate(lines):
      name, action, thing, place = line.split(",")
      table.append(f"{n},wavs/speakers/s1/{name}.wav,s1,Hm,{action},{thing},{place}")
      write(tmp_path / "wavs" / "speakers" / "s1" / f"{name}.wav", n)
    text(tmp_path / "data" / f"{part}_data.csv", *table)
  found = open_set(f"fluent_speech_commands={tmp_path}", CFG)
  assert found.classes == ("activate lights kitchen", "change language none none")
  assert labels(found, "test") == {"speakers/s1/d.wav": "change language none none"}
  assert set(found.parts) == {"train", "validation", "test"}


@pytest.mark.parametrize("folders", [("wav", "wav"), ("vox1_dev_wav/wav", "vox1_test_wav/wav")])
def test_voxceleb1_for_identification(tmp_path, folders):
  lines = []
  for n, (part, person) in enumerate([(1, "id2"), (1, "id1"), (2, "id1"), (3, "id2")]):
    lines.append(f"{part} {person}/video{n}/00001.wav")
    folder = folders[0] if person == "id1" else folders[1]
    write(tmp_path / folder / person / f"video{n}" / "00001.wav", n)
  text(tmp_path / "iden_split.txt", *lines)
  found = open_set(f"voxceleb1={tmp_path}", CFG)
  assert found.classes == ("id1", "id2")
  assert labels(found, "test") == {f"{folders[1]}/id2/video3/00001.wav": "id2"}
  assert sorted(labels(found, "train").values()) == ["id1", "id2"]
  text(tmp_path / "iden_split.txt", *lines, "4 id1/video0/00001.wav")
  with pytest.raises(DataError, match="line 5: expected 1, 2 or 3"):
    open_set(f"voxceleb1={tmp_path}", CFG)


@pytest.mark.parametrize("above", ["", "train"])
def test_voxlingua107_is_tested_on_dev(tmp_path, above):
  for n in range(8):
    name = f"vid{n}__U__S1---0012.340-0025.120.wav"  # dots that are no suffix
    write(tmp_path / above / ("ab", "zh")[n % 2] / name, n)
  write(tmp_path / "dev" / "zh" / "vid9__U__S3---0001.000-0002.000.wav", 9)
  found = open_set(f"voxlingua107={tmp_path}", CFG)
  assert (found.classes, found.metric) == (("ab", "zh"), "error_rate")
  assert set(labels(found, "test").values()) == {"zh"}
  assert [len(ids(found, part)) for part in ("train", "validation")] == [7, 1]


def test_nine_tenths_are_the_same_whatever_the_order_and_the_format():
  clips = [Clip(f"{n}.wav", ("a",)) for n in range(1500)]
  train, validation = nine_tenths(clips, CFG)
  assert (len(train), len(validation)) == (1350, 150)  # of MSoS, as the study reports it
  again = nine_tenths([Clip(f"{n}.flac", ("a",)) for n in reversed(range(1500))], CFG)[1]
  assert {without_suffix(c.path) for c in again} == {without_suffix(c.path) for c in validation}
