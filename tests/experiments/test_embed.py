"""The command: ids, files, going on after a stop, unusable recordings, one line for a mistake."""

import io
import json
import re

import numpy as np
import pytest
import soundfile

from experiments import embed
from experiments.embed import EmbedConfig
from experiments.embedding import source
from experiments.embedding.embedder import Embedding
from experiments.embedding.load import fingerprint, is_dasheng, open_embedder
from experiments.embedding.loop import Report, embed_all, progress_text
from experiments.embedding.recordings import recordings
from experiments.embedding.source import compare
from experiments.embedding.store import open_store, write_npz
from experiments.training import cli
from experiments.training.errors import UsageError
from pipelines.errors import BadAudio
from tests.experiments.embed_models import DASHENG, MN

SETTINGS = {"family": "fake", "weights": "a" * 64, "features": ["mel"]}


class Fake:
  """Embeds a wave as its length and mean, and keeps the sizes of its batches."""

  sample_rate = 8_000

  def __init__(self, rows=3, **settings):
    self.settings, self._rows, self.batches = {**SETTINGS, **settings}, rows, []

  def group(self, samples):
    if samples < 100:
      raise BadAudio("too short: 1 ms")
    return samples

  def rows(self, group):
    return self._rows

  def embed(self, waves):
    assert len({len(w) for w in waves}) == 1
    self.batches.append(len(waves))
    scenes = [np.array([len(w), w.mean()], np.float32) for w in waves]
    if not self.settings.get("timestamps"):
      return [Embedding(s) for s in scenes]
    times = np.arange(3, dtype=np.float32)
    return [Embedding(s, np.tile(s, (3, 1)), times) for s in scenes]


@pytest.fixture
def folder(tmp_path):
  """Five recordings of two lengths, two of them in a folder below."""
  root = tmp_path / "audio"
  (root / "below").mkdir(parents=True)
  for i, name in enumerate(("a.wav", "b.wav", "below/a.wav", "below/c.flac", "d.wav")):
    wave = np.full(800 if i != 3 else 1_600, 0.1 * i)
    soundfile.write(root / name, wave, 8_000)
  return root


def run(folder, out, fake, monkeypatch, **changes):
  monkeypatch.setattr(embed, "open_embedder", lambda *args, **kwargs: fake)
  return embed.main(EmbedConfig(files=(str(folder),), weights="w", out=str(out), **changes))


def test_a_file_for_each_recording(folder, tmp_path, monkeypatch, capsys):
  out, fake = tmp_path / "out", Fake(timestamps=True)
  assert run(folder, out, fake, monkeypatch) == 0
  assert sorted(fake.batches) == [1, 1, 3]
  with np.load(out / "below" / "c.flac.npz") as found:
    assert sorted(found) == ["id", "scene", "settings", "source", "times_ms", "timestamps"]
    np.testing.assert_allclose(found["scene"], [1_600, 0.3], rtol=1e-3)
    assert found["timestamps"].shape == (3, 2)
    assert str(found["id"]) == "below/c.flac"
    assert json.loads(str(found["settings"])) == fake.settings
  assert "5 embedded" in capsys.readouterr().err
  again = Fake(timestamps=True)
  assert run(folder, out, again, monkeypatch) == 0
  assert again.batches == []
  assert "0 embedded (0.00 h), 5 were there" in capsys.readouterr().err


def test_one_file_for_all_scenes(folder, tmp_path, monkeypatch):
  out = tmp_path / "scenes.npz"
  assert run(folder, out, Fake(), monkeypatch) == 0
  with np.load(out) as found:
    assert found["ids"].tolist() == ["a.wav", "b.wav", "below/a.wav", "below/c.flac", "d.wav"]
    np.testing.assert_allclose(found["scenes"][:, 1], [0, 0.1, 0.2, 0.3, 0.4], atol=1e-3)
    assert json.loads(str(found["settings"])) == SETTINGS
  assert sorted(p.name for p in tmp_path.iterdir()) == ["audio", "scenes.npz"]
  soundfile.write(folder / "e.wav", np.full(800, 0.5), 8_000)
  more = Fake()
  assert run(folder, out, more, monkeypatch) == 0
  assert more.batches == [1]
  with np.load(out) as found:
    assert found["ids"].tolist()[-1] == "e.wav"
    assert found["scenes"].shape == (6, 2)


@pytest.mark.parametrize("name", ["out", "scenes.npz"])
def test_a_killed_run_goes_on(folder, tmp_path, name):
  """The process dies inside the second batch; what is on disk then is all there is."""

  class Dies(Fake):
    def embed(self, waves):
      if self.batches:
        raise SystemExit
      return super().embed(waves)

  out, named = str(tmp_path / name), recordings([str(folder)])
  dies = Dies(rows=2)
  with pytest.raises(SystemExit):
    embed_all(named, dies, open_store(out, dies.settings))
  if name == "out":  # a file that was being written, and one that a power cut emptied
    (tmp_path / name / ".d.wav.npz.part").write_bytes(b"PK")
    (tmp_path / name / "d.wav.npz").write_bytes(b"")
  rest = Fake(rows=2)
  store = open_store(out, rest.settings)
  report = embed_all(named, rest, store)
  store.finish(list(named), report.unusable)
  assert (report.skipped, report.made) == (2, 3)
  assert compare(named, store.source).done == set(named)
  assert not list(tmp_path.rglob("*.part*"))


@pytest.fixture
def other(folder, tmp_path):
  """A folder with files of the same names; that of d.wav is the same file, byte for byte."""
  root = tmp_path / "other"
  root.mkdir()
  for name, level in (("a.wav", 0.5), ("b.wav", 0.6)):
    soundfile.write(root / name, np.full(800, level), 8_000)
  (root / "d.wav").write_bytes((folder / "d.wav").read_bytes())
  return root


def means(out):
  """Second number of each scene by id."""
  if out.is_file():
    with np.load(out) as found:
      return dict(
        zip(
          found["ids"].tolist(), found["scenes"][:, 1].astype(float).round(3).tolist(), strict=True
        )
      )
  return {
    path.relative_to(out).as_posix().removesuffix(".npz"): round(
      float(np.load(path)["scene"][1]), 3
    )
    for path in out.rglob("*.npz")
  }


@pytest.mark.parametrize("name", ["out", "scenes.npz"])
def test_another_recording_of_the_same_name(folder, other, tmp_path, monkeypatch, capsys, name):
  out = tmp_path / name
  assert run(folder, out, Fake(), monkeypatch) == 0
  capsys.readouterr()
  again = Fake()
  assert run(other, out, again, monkeypatch) == 0
  told = capsys.readouterr().err
  assert again.batches == [2]
  assert "2 of the embeddings that are there were made of other recordings" in told
  assert "2 embedded (0.00 h), 1 were there, 2 had changed" in told
  assert means(out) == {
    "a.wav": 0.5, "b.wav": 0.6, "d.wav": 0.4, "below/a.wav": 0.2, "below/c.flac": 0.3
  }  # fmt: skip
  # What cannot be embedded any more does not keep the numbers of what it was.
  (other / "a.wav").write_bytes(b"RIFF")
  assert run(other, out, Fake(), monkeypatch) == 1
  assert sorted(means(out)) == ["b.wav", "below/a.wav", "below/c.flac", "d.wav"]
  assert run(other, out, Fake(), monkeypatch) == 1


@pytest.mark.parametrize("name", ["out", "scenes.npz"])
def test_embeddings_of_an_older_version_are_taken_as_they_are(
  folder, other, tmp_path, monkeypatch, capsys, name
):
  out = tmp_path / name
  assert run(folder, out, Fake(), monkeypatch) == 0
  for path in [out] if out.is_file() else out.rglob("*.npz"):
    with np.load(path) as found:
      write_npz(path, {key: found[key] for key in found if not key.startswith("source")})
  again = Fake()
  assert run(other, out, again, monkeypatch) == 0
  assert again.batches == []
  assert means(out)["a.wav"] == 0
  assert "3 embeddings of an older version do not tell" in capsys.readouterr().err
  soundfile.write(other / "new.wav", np.full(800, 0.7), 8_000)
  assert run(other, out, again, monkeypatch) == 0
  assert means(out)["new.wav"] == 0.7
  if out.is_file():
    assert sorted(np.load(out)["sources"])[:5] == [""] * 5


def test_a_source_is_the_size_and_the_ends(tmp_path, monkeypatch):
  monkeypatch.setattr(source, "END_BYTES", 10)
  path = tmp_path / "x"

  def of(content):
    path.write_bytes(content)
    return source.source_of(path)

  text = bytes(range(40))
  assert of(text) == of(text)
  assert of(text).startswith("40:")
  for at, told in ((0, True), (9, True), (10, False), (29, False), (30, True), (39, True)):
    edited = text[:at] + b"?" + text[at + 1 :]
    assert (of(edited) != of(text)) is told, at
  assert of(text[:20]) != of(text[:19] + b"?")
  assert of(text[:15]) != of(text[:14] + b"?")
  assert of(b"") == of(b"") != of(b"?")


def test_unusable_recordings_are_named_and_counted(folder, tmp_path, monkeypatch, capsys):
  (folder / "b.wav").write_bytes(b"RIFF no audio")
  soundfile.write(folder / "short.wav", np.zeros(50), 8_000)
  soundfile.write(folder / "loud.wav", np.full(800, 0.7), 8_000)

  class Overflows(Fake):
    def embed(self, waves):
      made = super().embed(waves)
      return [m if m.scene[1] < 0.6 else Embedding(m.scene * np.inf) for m in made]

  out = tmp_path / "out"
  assert run(folder, out, Overflows(), monkeypatch) == 1
  told = capsys.readouterr().err
  for text in (
    "b.wav: cannot be decoded",
    "short.wav: too short",
    "loud.wav: its embedding is not",
  ):
    assert text in told
  assert "4 embedded" in told
  assert "3 unusable" in told
  listed = json.loads((out / "unusable.json").read_text())
  assert sorted(row["recording"] for row in listed) == ["b.wav", "loud.wav", "short.wav"]
  for name in ("b.wav", "short.wav", "loud.wav"):
    (folder / name).unlink()
  assert run(folder, out, Overflows(), monkeypatch) == 0
  assert not (out / "unusable.json").exists()


def test_other_settings_in_the_same_place(folder, tmp_path, monkeypatch):
  for name in ("out", "scenes.npz"):
    assert run(folder, tmp_path / name, Fake(), monkeypatch) == 0
    with pytest.raises(UsageError, match=r"other settings: features mel \(now mel b5\)"):
      run(folder, tmp_path / name, Fake(features=["mel", "b5"]), monkeypatch)
  with pytest.raises(UsageError, match="weights aaaaaaaaaaaa... .now bbbbbbbbbbbb"):
    run(folder, tmp_path / "out", Fake(weights="b" * 64), monkeypatch)
  with pytest.raises(UsageError, match="one file holds scenes alone"):
    run(folder, tmp_path / "new.npz", Fake(timestamps=True), monkeypatch)
  (tmp_path / "text").write_text("mine")
  with pytest.raises(UsageError, match="is a file"):
    run(folder, tmp_path / "text", Fake(), monkeypatch)
  (tmp_path / "other.npz").write_text("mine")
  with pytest.raises(UsageError, match="no file of ours"):
    run(folder, tmp_path / "other.npz", Fake(), monkeypatch)
  assert (tmp_path / "other.npz").read_text() == "mine"


def test_a_damaged_file_of_scenes(folder, tmp_path, monkeypatch):
  out = tmp_path / "scenes.npz"
  assert run(folder, out, Fake(), monkeypatch) == 0
  whole = out.read_bytes()
  array = io.BytesIO()
  np.save(array, np.zeros(3))
  for content in (
    whole[: len(whole) // 2], whole[:-1], whole[:200] + b"?" * 60 + whole[260:], array.getvalue()
  ):  # fmt: skip
    out.write_bytes(content)
    with pytest.raises(UsageError, match="is damaged or no file of ours") as error:
      run(folder, out, Fake(), monkeypatch)
    assert "scenes.npz" in str(error.value)


def test_ids(folder, tmp_path):
  assert list(recordings([str(folder)])) == [
    "a.wav", "b.wav", "below/a.wav", "below/c.flac", "d.wav"
  ]  # fmt: skip
  two = recordings([str(folder / "below"), str(folder / "d.wav")])
  assert list(two) == ["below/a.wav", "below/c.flac", "d.wav"]
  assert list(recordings([str(folder / "a.wav")] * 2)) == ["a.wav"]
  with pytest.raises(UsageError, match="would both be called a.wav"):
    recordings([str(folder / "a.wav"), str(folder / "below" / "a.wav")])
  with pytest.raises(UsageError, match="at least one recording"):
    recordings([])


def test_memory_bounds_what_waits(folder, monkeypatch, tmp_path):
  monkeypatch.setattr("experiments.embedding.loop.WAITING_SECONDS", 0.15)
  fake = Fake(rows=100)
  embed_all(recordings([str(folder)]), fake, open_store(str(tmp_path / "out"), SETTINGS), workers=1)
  assert sum(fake.batches) == 5
  assert len(fake.batches) > 2


def test_progress():
  report = Report(5_000, skipped=200, made=990, audio_seconds=3_600.0, unusable={"x": "y"})
  text = progress_text(report, 10.0)
  assert text == "embed 1,191/5,000  10.0 clips/s  1.00 h audio  ETA 6:21  1 unusable"


def test_which_family(tmp_path):
  assert is_dasheng(tmp_path, "")
  assert is_dasheng(tmp_path / "dasheng_base.pt", "")
  assert is_dasheng(tmp_path / "x.pt", "dasheng")
  assert not is_dasheng(tmp_path / "mn10_as_mAP_471.pt", "")
  assert not is_dasheng(tmp_path / "x.pt", "dymn04_as")
  with pytest.raises(UsageError, match="did you mean mn10_as"):
    is_dasheng(tmp_path / "x.pt", "mn10_ass")


def test_a_fingerprint_is_of_content_not_of_how_it_is_computed():
  tree = {"params": {"a": np.zeros(3, np.float32), "b": np.ones(2, np.float32)}}
  one = fingerprint(MN, tree)
  assert one == fingerprint(MN.with_compute(dtype="bfloat16"), tree)
  assert one != fingerprint(DASHENG, tree)
  tree["params"]["b"][1] = 2
  assert one != fingerprint(MN, tree)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ("--out x", "--weights is missing"),
    ("--weights mn10_as_mAP_471.pt", "--out is missing"),
    ("--weights mn10_as_mAP_471.pt --out x", "no such weight file; download"),
    ("--weights mn10_as_mAP_471.pt --out x --window 1", "add --timestamps"),
    ("--weights mn10_as_mAP_471.pt --out x --pooling mean", "choose from avg, max"),
    ("--weights d.pt --model dasheng --out x --features mel", "--features is for MN and DyMN"),
    ("--weights d.pt --model dasheng --out x --pooling avg", "choose from mean, max"),
    ("--weights d.pt --out x", "no such"),
    ("--weights d.pt --out x --workers -1", "--workers at least 0"),
    ("--weights d.pt --out x --batch_seconds inf", "--batch_seconds inf: give seconds"),
    ("--weights d.pt --out x --batch_seconds nan", "--batch_seconds nan: give seconds"),
    ("--weight d.pt", "did you mean --weights"),
  ],
)
def test_mistakes_are_one_line(folder, flags, message, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as left:
    cli.run_main(
      embed.main,
      {"default": EmbedConfig()},
      prog="embed",
      default="default",
      argv=[str(folder), *flags.split()],
    )
  told = capsys.readouterr().err
  assert left.value.code == 2
  assert message in told
  assert told.count("\n") == 1
  assert not (tmp_path / "x").exists()


def test_the_flag_that_took_the_files_is_named(capsys):
  argv = ["--weights", "w.pt", "--out", "x", "--features", "blocks", "mel", "music/"]
  with pytest.raises(SystemExit) as left:
    cli.run_main(embed.main, {"x": EmbedConfig()}, prog="embed", default="x", argv=argv)
  told = capsys.readouterr().err
  assert (left.value.code, told.count("\n")) == (2, 1)
  assert "--features belongs to it: FILES go before, or behind --" in told


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e7, -1.0])
@pytest.mark.parametrize("flag", ["window", "hop"])
def test_windows_have_bounds(flag, seconds, monkeypatch):
  monkeypatch.setattr("mobile_jax.read_model", lambda path, name: (MN, {}))
  with pytest.raises(UsageError, match=f"--{flag} {re.escape(f'{seconds:g}')}: .*3600"):
    open_embedder("mn10_as_mAP_471.pt", timestamps=True, **{flag: seconds})


def test_formats_that_are_not_read_are_told(folder, tmp_path, monkeypatch, capsys):
  (folder / "e.m4a").touch()
  assert run(folder, tmp_path / "out", Fake(), monkeypatch) == 0
  assert "embed: 1 file is passed over: .m4a cannot be read" in capsys.readouterr().err
  assert run(folder / "e.m4a", tmp_path / "out", Fake(), monkeypatch) == 1
  assert "e.m4a: empty file; read are .wav" in capsys.readouterr().err


@pytest.mark.torch
def test_a_dasheng_file(dasheng_fixtures, tmp_path, folder):
  embedder = open_embedder(str(dasheng_fixtures / "tiny_dasheng.pt"), timestamps=True)
  assert embedder.settings["family"] == "dasheng"
  store = open_store(str(tmp_path / "out"), embedder.settings)
  report = embed_all(recordings([str(folder / "below")]), embedder, store)
  assert report.made == 2
  with np.load(tmp_path / "out" / "a.wav.npz") as found:
    assert found["timestamps"].shape == (2, 48)
    assert found["times_ms"].tolist() == [20, 60]
    np.testing.assert_allclose(found["scene"], found["timestamps"].mean(axis=0), atol=1e-5)
