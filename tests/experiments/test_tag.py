"""The command: table, JSON, CSV, picture, labels, and one line for each mistake."""

import csv
import dataclasses
import json
import pathlib
import types

import matplotlib.image
import numpy as np
import pytest

import mobile_jax
from experiments import tag
from experiments.tagging import heatmap, models, outputs
from experiments.tagging.files import Tagged
from experiments.tagging.labels import FILE_NAME, find_labels, numbered, top_tags
from experiments.training import cli
from experiments.training.errors import UsageError
from tests.experiments.tag_models import CLASSES, Measure, logit, measuring, noise, write

NAMES = ("loud", "louder", "first", "long", "never, ever")


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
  """Runs the command with weights that measure: (exit code, output, errors)."""
  (tmp_path / "weights").mkdir()
  weights = tmp_path / "weights" / "measure.pt"
  rows = [f'{n},/m/{n},"{name}"' for n, name in enumerate(NAMES)]
  (weights.parent / FILE_NAME).write_text("index,mid,display_name\n" + "\n".join(rows) + "\n")
  opened = lambda weights_, model, window, batch: (measuring(batch), [weights])  # noqa: E731
  monkeypatch.setattr(tag, "open_tagger", opened)

  def run(*argv):
    with pytest.raises(SystemExit) as exit_:
      cli.run_main(
        tag.main, {"default": tag.TagConfig()}, prog="tag", default="default",
        argv=[str(word) for word in argv],
      )  # fmt: skip
    out, err = capsys.readouterr()
    return exit_.value.code, out, err

  return run


def mistake(command, *argv):
  code, out, err = command(*argv)
  assert (code, out) == (2, ""), err
  (line,) = err.splitlines()
  return line.removeprefix("tag: error: ")


def test_the_best_tags_of_a_file(command, tmp_path):
  path = write(tmp_path / "a.wav", noise(1.0))
  code, out, err = command(path)
  assert (code, err) == (0, "")
  first, *rows = out.splitlines()
  assert first == f"{path}, 1.0 s"
  assert rows[0] == "  0.731  long"  # a "logit" of 1 for a clip of 1 s
  assert len(rows) == CLASSES
  assert rows[-1] == "  0.000  never, ever"
  assert len(command(path, "--k", 2)[1].splitlines()) == 3


def test_long_files_are_joined_from_windows_or_taken_whole(command, tmp_path):
  wave = noise(12.0)
  wave[50_000:] *= 0.1
  path = write(tmp_path / "a.wav", wave)

  def values(*flags):
    record = json.loads(command(path, "--json", "-", *flags)[1])
    return {t["index"]: logit(t["probability"]) for t in record["tags"]}

  assert values()[3] == pytest.approx(10.0, abs=0.1)
  assert values("--whole")[3] == pytest.approx(12.0, abs=0.3)
  loudest, last = 0.3, wave[2 * 32_000 :].max()
  mean = np.mean([1 / (1 + np.exp(-loudest)), 1 / (1 + np.exp(-last))])
  assert values("--over_windows", "max")[1] == pytest.approx(loudest, abs=1e-3)
  assert values()[1] == pytest.approx(logit(mean), abs=1e-3)


def test_tags_over_time(command, tmp_path):
  path = write(tmp_path / "a.wav", noise(3.2))
  paths = [tmp_path / "out" / name for name in ("o.json", "o.csv", "o.png")]
  code, out, err = command(
    path, "--window", 1, "--hop", 0.5, "--json", paths[0], "--csv", paths[1], "--picture", paths[2]
  )
  assert code == 0
  assert err == f"tag: drew {paths[2]}\n"
  lines = out.splitlines()
  assert lines[0] == f"{path}, 3.2 s, windows of 1 s every 0.5 s"
  assert len(lines) == 1 + 6
  assert lines[1].startswith("  0:00.0 - 0:01.0  0.73 long, ")
  assert lines[1].count(",") == 2
  assert lines[-1].startswith("  0:02.5 - 0:03.2  ")
  document = json.loads(paths[0].read_text())
  assert (document["window"], document["hop"]) == (1.0, 0.5)
  (file,) = document["files"]
  assert (file["file"], file["seconds"]) == (str(path), 3.2)
  assert [w["start"] for w in file["windows"]] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
  best = file["windows"][0]["tags"][0]
  assert (best["index"], best["mid"], best["label"]) == (3, "/m/3", "long")
  assert best["probability"] == pytest.approx(0.731059, abs=1e-6)
  with paths[1].open(newline="") as opened:
    rows = list(csv.DictReader(opened))
  assert len(rows) == 6 * CLASSES
  assert rows[-1] | {"probability": ""} == {
    "file": str(path), "start": "2.5", "end": "3.2", "rank": "5", "index": "4", "mid": "/m/4",
    "label": "never, ever", "probability": "",
  }  # fmt: skip
  height, width = matplotlib.image.imread(paths[2]).shape[:2]
  assert width > 1000
  assert 400 < height < width
  assert not list(paths[0].parent.glob("*.part"))


def test_a_folder_with_unusable_files(command, tmp_path):
  for name in ("b/2.wav", "b/1.flac", "c.ogg"):
    write(tmp_path / "set" / name, noise(0.5, channels=2, rate=16_000), 16_000)
  (tmp_path / "set" / "bad.wav").write_text("nothing")
  gone = tmp_path / "gone.wav"
  code, out, err = command(tmp_path / "set", gone, "--json", tmp_path / "o.jsonl")
  assert code == 1
  assert [line.split(",")[0] for line in out.splitlines() if line.endswith("0.5 s")] == [
    str(tmp_path / "set" / name) for name in ("b/1.flac", "b/2.wav", "c.ogg")
  ]
  bad, absent, summary = err.splitlines()
  assert bad.startswith(f"tag: {tmp_path / 'set' / 'bad.wav'}: cannot be decoded")
  assert absent.startswith(f"tag: {gone}: absent")
  assert summary == "tag: 2 of 5 files could not be used"
  records = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
  assert ["error" in record for record in records] == [False, False, True, False, True]


def test_a_file_whose_tags_are_not_finite(command, tmp_path, monkeypatch):
  """Huge samples overflow in the network; the measuring one stands in for it."""
  measure = Measure.logits

  def logits(self, waves):
    found = measure(self, waves)
    found[waves.max(axis=1) > 1e10, 1] = np.inf
    found[waves.max(axis=1) > 1e20, 1] = np.nan
    return found

  monkeypatch.setattr(Measure, "logits", logits)
  # The windows of the first are in several batches, of which the last ones are sound.
  for name, wave in {"a": noise(9.0), "b": noise(1.0), "c": noise(1.0)}.items():
    wave[100] = {"a": 1e12, "b": 1e22, "c": 0.1}[name]
    write(tmp_path / "set" / f"{name}.wav", wave, subtype="FLOAT")
  written = [tmp_path / name for name in ("o.json", "o.csv")]
  code, out, err = command(
    tmp_path / "set", "--window", 1, "--hop", 1, "--json", written[0], "--csv", written[1]
  )
  assert code == 1
  a, b, summary = err.splitlines()
  for line, name in ((a, "a.wav"), (b, "b.wav")):
    path = tmp_path / "set" / name
    assert line == f"tag: {path}: its tags are not finite: are its samples within [-1, 1]?"
  assert summary == "tag: 2 of 3 files could not be used"
  assert out.splitlines()[0].startswith(f"{tmp_path / 'set' / 'c.wav'}, 1.0 s")
  assert "nan" not in out + written[1].read_text()
  records = json.loads(written[0].read_text())["files"]
  assert ["error" in record for record in records] == [True, True, False]


def test_formats_that_are_not_read(command, tmp_path):
  path = tmp_path / "set" / "a.m4a"
  path.parent.mkdir()
  path.write_bytes(b"\0\0\0\x20ftypM4A ")
  code, _, err = command(path)
  assert (code, err.count("\n")) == (1, 1)
  assert err.startswith(f"tag: {path}: cannot be decoded")
  assert "; read are .wav .flac" in err
  assert "`ffmpeg -i IN.m4a OUT.flac`" in err
  told = mistake(command, path.parent)
  assert "holds no audio; looked for .wav" in told
  assert told.endswith("1 file is passed over: .m4a cannot be read; convert first, as with "
                       "`ffmpeg -i IN.m4a OUT.flac`")  # fmt: skip
  write(path.parent / "b.wav", noise(0.5))
  path.with_name("c.WMA").touch()
  code, out, err = command(path.parent)
  assert (code, len(out.splitlines())) == (0, 1 + CLASSES)
  (line,) = err.splitlines()
  assert line.startswith("tag: 2 files are passed over: .m4a .wma cannot be read")


def test_what_was_done_is_written_when_the_work_stops(tmp_path):
  path = tmp_path / "o.json"

  def stopped():
    with outputs.open_outputs(str(path), "", {}) as written:
      written[0].add({"file": "a"})
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    stopped()
  assert json.loads(path.read_text())["files"] == [{"file": "a"}]


def test_labels_named_beside_the_weights_or_by_number(tmp_path):
  weights = [tmp_path / "w.pt"]
  labels, note = find_labels("", weights, 3)
  assert labels == numbered(3)
  assert "research.google.com/audioset" in note
  own = tmp_path / "own.csv"
  own.write_text("index,display_name\n1,one\n0,zero\n2,two\n")
  labels, note = find_labels(str(own), weights, 3)
  assert ([label.name for label in labels], note) == (["zero", "one", "two"], None)
  own.rename(tmp_path / FILE_NAME)
  assert find_labels("", weights, 3) == (labels, None)
  # A list that does not fit is an error only where the user named it.
  assert "3 labels, but the model has 4" in find_labels("", weights, 4)[1]
  for text, message in (("a,b\n1,2\n", "no label list"), ("index,display_name\n0,x\n", "1 labels")):
    own.write_text(text)
    with pytest.raises(UsageError, match=message):
      find_labels(str(own), weights, 3)
  with pytest.raises(UsageError, match="No such file"):
    find_labels(str(tmp_path / "none.csv"), weights, 3)


def test_equal_tags_keep_their_order():
  found = top_tags(np.array([0.1, 0.5, 0.1, 0.5]), numbered(4), 3)
  assert [tag.number for tag in found] == [1, 3, 0]


@pytest.mark.parametrize(
  ("seconds", "decimals", "text"),
  [(4.0, 1, "0:04.0"), (59.96, 1, "1:00.0"), (3723.5, 1, "1:02:03.5"), (0.125, 3, "0:00.125")],
)
def test_clock(seconds, decimals, text):
  assert outputs.clock(seconds, decimals) == text


def test_times_are_told_apart():
  assert [outputs.decimals_of(*s) for s in ((4, 2.5), (1, 0.25), (0.16, 0.005))] == [1, 2, 3]


def test_cells_lie_in_the_middle_of_their_windows():
  file = Tagged(path=None, seconds=10.0, spans=[(0, 4), (2.5, 6.5), (5, 9), (7.5, 10)])
  np.testing.assert_allclose(heatmap.edges(file, 2.5), [0, 3.25, 5.75, 8.25, 10])
  file = Tagged(path=None, seconds=9.0, spans=[(0, 4), (4, 8), (8, 9)])
  np.testing.assert_allclose(heatmap.edges(file, 4.0), [0, 4, 8, 9])
  file = Tagged(path=None, seconds=3.0, spans=[(0, 3)])
  np.testing.assert_allclose(heatmap.edges(file, 4.0), [0, 3])


def test_envelope_covers_the_recording(tmp_path):
  wave = noise(1.0)
  path = write(tmp_path / "x.wav", wave, subtype="FLOAT")
  low, high = heatmap.envelope(path, 32_000, 1.0, columns=100)
  np.testing.assert_array_equal(high, wave.reshape(100, -1).max(axis=1))
  np.testing.assert_array_equal(low, wave.reshape(100, -1).min(axis=1))
  assert heatmap.envelope(path, 32_000, 1.0, columns=3).shape == (2, 3)


def test_mistakes_at_the_shell(command, tmp_path):
  path = write(tmp_path / "a.wav", noise(0.5))
  for argv, message in {
    (): "name at least one audio file or folder",
    ("--weights", "a.pt", path): "--weights belongs to it: FILES go before, or behind --",
    (path, "--windw", 4): "--windw: unknown; did you mean --window?",
    (path, "--window", 0): "--window 0: give seconds",
    (path, "--hop", -1): "--hop",
    (path, "--window", 1e7): "--window 1e+07: give seconds, from 0.02 to 3600 (an hour)",
    (path, "--window", "nan"): "--window nan: give seconds",
    (path, "--hop", "inf"): "--hop inf: give seconds",
    (path, "--round", 1e7): "--round 1e+07: give seconds",
    (path, "--k", 0): "at least one tag",
    (path, "--batch", 0): "--batch 0: at least 1",
    (path, "--round", 1e-9): "--round 1e-09",
    (path, "--whole", "--window", 4): "--whole is one pass",
    (path, "--picture", "x.png"): "add --window 4",
    (path, "--window", 1, "--picture", "x.jpg"): "end the name in .png",
    (path, path.parent, "--window", 1, "--picture", "x.png"): "--picture draws one file",
    (path, "--stream"): "name no files",
    (path, "--json", "-", "--csv", "-"): "would mix",
    (path, "--labels", tmp_path / "no.csv"): "No such file",
  }.items():
    write(tmp_path / "b.wav", noise(0.1))
    assert message in mistake(command, *argv)


def test_mistakes_in_names_and_files_of_weights(tmp_path):
  lost = tmp_path / "mn04_as_mAP_432.pt"
  url = "releases/download/v0.0.1/mn04_as_mAP_432.pt"
  for weights, names, message in (
    ([str(lost)], [], url),
    ([str(tmp_path / "mine.pt")], ["mn04_as"], url),
    ([str(tmp_path)], ["mn04_as"], url),
    ([], ["mn04_as"], url),
    ([], [], "mn10_as_mAP_471.pt from https://"),
    ([str(tmp_path)], [], "is a folder; name a published --model"),
    ([str(tmp_path / "mine.pt")], [], "add --model"),
    ([str(tmp_path / "a.wav")], [], "a.wav: is a recording; files go before --weights"),
    (["a", "b", "c"], ["mn04_as", "mn05_as"], "2 names for 3 weight files"),
    ([str(lost)], ["mn4_as"], "did you mean .*mn04_as"),
  ):
    with pytest.raises(ValueError, match=message):
      models.open_tagger(weights, names, 10.0)


def test_help_tells_every_flag(capsys):
  with pytest.raises(SystemExit) as exit_:
    cli.run_main(tag.main, {"default": tag.TagConfig()}, prog="tag", argv=["--help"])
  assert exit_.value.code == 0
  text = capsys.readouterr().out
  assert text.startswith("usage: python -m experiments.tag FILES...")
  for flag in ("--weights STR ...", "--window FLOAT|none", "--stream", "{s16le,f32le}"):
    assert flag in text


def test_the_published_scenes_are_heard_second_by_second(monkeypatch):
  """And named, where no list lies beside the weights; every other model goes on as it did."""
  by_name = tag.TagConfig(model=("cp_mobile_dcase23",), weights=("x.ckpt",))
  by_file = tag.TagConfig(weights=("folder/cp_mobile_dcase23.ckpt",))
  ten = types.SimpleNamespace(classes=10)
  monkeypatch.setattr(tag, "open_tagger", lambda *_: (ten, [pathlib.Path("folder/x.ckpt")]))
  for cfg in (by_name, by_file):
    assert tag.plan_of(cfg).window == 1.0
    assert [label.name for label in tag._open(cfg, 1.0)[1]] == list(mobile_jax.SCENES)
  other = tag.TagConfig(weights=("mn04_as_mAP_432.pt",))
  assert tag.plan_of(other).window == 10.0
  assert tag._open(other, 10.0)[1] == numbered(10)


def test_probabilities_of_classes_add_up_to_one():
  member = Measure()
  member.cfg = dataclasses.replace(mobile_jax.named("cp_resnet_32"), classes=CLASSES)
  found = models.Tagger([member], 4).probabilities(noise(0.2).T)
  np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-6)
  assert mobile_jax.named("passt_as").objective == mobile_jax.named("mn10").objective == "tags"
