import json
import os
import time

import numpy as np
import pytest
import soundfile

from pipelines import DataConfig, DataError, index, open_dataset
from pipelines.sources import EncodedSource, open_source
from tests.pipelines.conftest import tone

CFG = DataConfig()


def test_folder_reads_every_format_in_any_case(tmp_path):
  kinds = {
    "a.wav": ("WAV", "PCM_16"),
    "b.FLAC": ("FLAC", "PCM_16"),
    "c.ogg": ("OGG", "VORBIS"),
    "sub/d.Opus": ("OGG", "OPUS"),
    "sub/deep/e.mp3": ("MP3", "MPEG_LAYER_III"),
  }
  (tmp_path / "sub/deep").mkdir(parents=True)
  for number, (name, (kind, subtype)) in enumerate(kinds.items()):
    wave = tone(number, 1.0, channels=1 + number % 2)
    soundfile.write(tmp_path / name, wave, 16_000, format=kind, subtype=subtype)
  (tmp_path / "notes.txt").write_text("no audio")
  (tmp_path / "._a.wav").write_text("resource fork")
  source = open_source(str(tmp_path), CFG)
  assert list(source.ids) == sorted(kinds)
  assert source.skipped == []
  for i, name in enumerate(source.ids):
    wave, rate = source.read(i, 4000, 12_000)
    number = list(kinds).index(name)
    assert rate == source.rates[i]
    assert wave.shape == (8000 * rate // 16_000, 1 + number % 2)
    lossless = number < 2
    truth = tone(number, 1.0, channels=1 + number % 2)[4000:12_000]
    error = np.abs(wave - truth).max() if rate == 16_000 and lossless else 0.0
    assert error < 1e-4
    assert abs(source.frames[i] / rate - 1.0) < 0.08


def test_folder_without_audio_and_missing_folder(tmp_path):
  (tmp_path / "music").mkdir()
  with pytest.raises(DataError, match=r"holds no audio; looked for \.wav"):
    open_source(str(tmp_path / "music"), CFG)
  with pytest.raises(DataError, match="no file or folder .*musik; did you mean .*music"):
    open_source(str(tmp_path / "musik"), CFG)


def test_links_are_followed_without_looping(library, tmp_path):
  folder = library("set", 2)
  (folder / "again").symlink_to(folder)
  (folder / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
  source = open_source(str(folder), CFG)
  assert list(source.ids) == ["000.flac", "001.flac"]
  assert source.skipped == [("gone.wav", "absent")]


def test_index_is_reused_only_while_files_stay_as_they_were(library, monkeypatch):
  folder = library("set", 3)
  past = time.time() - 60
  for path in folder.iterdir():
    os.utime(path, (past, past))
  scanned = []
  real = index.header_or_reason
  monkeypatch.setattr(
    index, "header_or_reason", lambda p, n: scanned.append(os.path.basename(p)) or real(p, n)
  )
  first = open_source(str(folder), CFG)
  assert sorted(scanned) == ["000.flac", "001.flac", "002.flac"]
  scanned.clear()
  again = open_source(str(folder), CFG)
  assert scanned == []
  assert again.frames.tolist() == first.frames.tolist()
  soundfile.write(folder / "001.flac", tone(1, 0.5), 16_000)  # just now: not at rest
  soundfile.write(folder / "0005.flac", tone(1, 0.25), 16_000)
  changed = open_source(str(folder), CFG)
  assert sorted(scanned) == ["0005.flac", "001.flac"]
  assert changed.frames.tolist() == [first.frames[0], 4000, 8000, first.frames[2]]
  scanned.clear()
  open_source(str(folder), CFG)
  assert sorted(scanned) == ["0005.flac", "001.flac"]


def test_damaged_cache_is_rebuilt(library, index_cache):
  folder = library("set", 2)
  first = open_source(str(folder), CFG)
  for path in index_cache.iterdir():
    path.write_bytes(b"PK nonsense")
  assert open_source(str(folder), CFG).frames.tolist() == first.frames.tolist()


def _write_table(path, rows):
  if path.suffix == ".jsonl":
    path.write_text("\n".join(json.dumps(r) for r in rows) + "\n")
    return
  mark = "\t" if path.suffix == ".tsv" else ","
  names = list(dict.fromkeys(k for r in rows for k in r))
  lines = [mark.join(names)] + [mark.join(str(r.get(n, "")) for n in names) for r in rows]
  path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_manifest(library, suffix):
  folder = library("set", 3, seconds=1.0)
  rows = [
    {"filename": "001.flac", "label": "dog", "sample_rate": 16000},
    {"filename": "000.flac", "label": "cat", "start": 0.25, "stop": 0.5},
    {"filename": "000.flac", "label": "dog", "start": 0.125, "id": "own"},
    {"filename": "002.flac"},
  ]
  _write_table(folder / f"table{suffix}", rows)
  source = open_source(str(folder / f"table{suffix}"), CFG)
  assert list(source.ids) == ["001.flac", "000.flac@0.25", "own", "002.flac"]
  assert list(source.labels) == ["dog", "cat", "dog", ""]
  assert source.frames.tolist()[1:3] == [4000, 9600 - 2000]
  wave, _ = source.read(1, 100, 200)
  assert np.allclose(wave, tone(0, 0.6)[4100:4200], atol=1e-4)
  dataset = open_dataset(DataConfig(source=(str(folder / f"table{suffix}"),)), part="all")
  assert dataset.classes == ("cat", "dog")
  assert dataset.labels.tolist() == [1, 0, 1, -1]


def test_parts_of_one_file_are_held_out_together(library):
  folder = library("set", 6, seconds=1.0)
  parts = [{"path": f"{n:03}.flac", "start": 0.1 * k} for n in range(6) for k in range(5)]
  _write_table(folder / "t.csv", parts)
  cfg = DataConfig(source=(str(folder / "t.csv"),), holdout=0.5, crop_seconds=0.1)
  files = []
  for part in ("train", "holdout"):
    dataset = open_dataset(cfg, part=part)
    ids = dataset.sources[0].ids
    files.append({ids[int(i)].split("@")[0] for i in dataset.recordings_of(0)})
  assert not files[0] & files[1]
  assert len(files[0] | files[1]) == 6


def test_a_line_separator_in_a_name_is_no_line_end(library):
  folder = library("set", 1)
  (folder / "a\u2028b.flac").write_bytes((folder / "000.flac").read_bytes())
  (folder / "t.jsonl").write_text('{"path": "a\u2028b.flac"}\n', encoding="utf-8")
  assert list(open_source(str(folder / "t.jsonl"), CFG).ids) == ["a\u2028b.flac"]


@pytest.mark.parametrize(
  ("row", "message"),
  [
    ({"path": "000.flac", "start": 1e306}, r"t\.csv:2 has start '1e\+306'; give a number from 0"),
    ({"path": "x" * 200_000}, r"t\.csv is no sound table: field larger"),
    ({"path": "000.flac", "sample_rate": 44100}, r"t\.csv:2 says 000\.flac .*44100 Hz.* 16000 Hz"),
    ({"path": "000.flac", "start": "soon"}, r"t\.csv:2 has start 'soon'"),
    ({"path": "000.flac", "start": 2, "stop": 1}, r"t\.csv:2 has stop 1 s not after start 2 s"),
    ({"path": "", "label": "x"}, r"t\.csv:2 names no file"),
    ({"file": "000.flac"}, "no column path or filename; its columns: file"),
  ],
)
def test_wrong_manifest_names_the_line(library, row, message):
  folder = library("set", 1)
  _write_table(folder / "t.csv", [row])
  with pytest.raises(DataError, match=message) as caught:
    open_source(str(folder / "t.csv"), CFG)
  assert "\n" not in str(caught.value)


def test_columns_without_a_name_may_repeat(library):
  folder = library("set", 3)
  (folder / "t.csv").write_text("path,label,,\n000.flac,a,,\n\n001.flac,b,x,y\n")
  source = open_source(str(folder / "t.csv"), CFG)
  assert list(source.ids) == ["000.flac", "001.flac"]
  assert list(source.labels) == ["a", "b"]
  for cells in ("002.flac,c,", "002.flac,c,,,"):
    (folder / "t.csv").write_text(f"path,label,,\n000.flac,a,,\n\n{cells}\n")
    with pytest.raises(DataError, match=r"t\.csv:4 has [35] cells, the head 4"):
      open_source(str(folder / "t.csv"), CFG)


def test_columns_that_are_read_may_not_repeat(library):
  folder = library("set", 1)
  (folder / "t.csv").write_text("path,label,label\n000.flac,a,b\n")
  with pytest.raises(DataError, match=r"t\.csv has the column label twice; leave one"):
    open_source(str(folder / "t.csv"), CFG)


def test_an_index_of_an_earlier_release_is_made_anew(library, monkeypatch):
  folder = library("set", 2)
  with monkeypatch.context() as earlier:
    earlier.setattr(index, "_FORMAT", "1")  # whose scans let through what is refused now
    earlier.setattr(index, "_REST_NS", 0)
    earlier.setattr(index, "header_or_reason", lambda *args: (7, 16_000, ""))
    time.sleep(0.05)  # a file of this moment is never trusted
    assert open_source(str(folder), CFG).frames.tolist() == [7, 7]
  assert open_source(str(folder), CFG).frames.tolist() == [960, 1440]


def test_a_source_without_files_of_its_own_is_called_by_its_name(library):
  source = EncodedSource("plain", open_source(str(library("set", 2)), CFG).table)
  dataset = open_dataset(DataConfig(crop_seconds=0.05), "all", sources=[source])
  assert dataset.place(dataset.clip(0)) == "plain (000.flac)"


def test_manifest_that_is_none(library):
  folder = library("set", 1)
  (folder / "t.jsonl").write_text('{"path": "000.flac"}\n{"path": \n')
  with pytest.raises(DataError, match=r"t\.jsonl:2 is not JSON"):
    open_source(str(folder / "t.jsonl"), CFG)
  (folder / "t.csv").write_text("path\n")
  with pytest.raises(DataError, match="has no rows"):
    open_source(str(folder / "t.csv"), CFG)
  (folder / "t.csv").write_text("path\n000.flac\n000.flac\n")
  with pytest.raises(DataError, match="repeats the id '000.flac' of line 2"):
    open_source(str(folder / "t.csv"), CFG)


def test_absent_files_of_a_manifest_are_counted(library):
  folder = library("set", 2)
  _write_table(folder / "t.csv", [{"path": "000.flac"}, {"path": "9.flac"}, {"path": "001.flac"}])
  source = open_source(str(folder / "t.csv"), CFG)
  assert source.skipped == [("9.flac", "absent")]
  assert list(source.ids) == ["000.flac", "001.flac"]
  with pytest.raises(DataError, match=r"1 of 3 recordings are unusable.*9\.flac: absent"):
    open_dataset(DataConfig(source=(str(folder / "t.csv"),)))


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("set.tar.gz", "compressed"),
    ("one.wav", "is one recording"),
    ("x.txt", "of no known kind"),
    ("missing-{000..002}.tar", "no shard .*missing-000.tar and 2 more"),
    ("*.tfrecord", "nothing matches"),
    ("synthetic:many", "synthetic:500"),
  ],
)
def test_other_sources_are_refused(tmp_path, name, message):
  for there in ("set.tar.gz", "one.wav", "x.txt"):
    (tmp_path / there).touch()
  spec = name if name.startswith("synthetic") else str(tmp_path / name)
  with pytest.raises(DataError, match=message):
    open_source(spec, CFG)
