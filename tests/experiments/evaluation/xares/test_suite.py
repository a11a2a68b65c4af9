"""From the package's tar files and from local tasks to a table: labels, pieces, folds, resuming."""

import io
import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from experiments import evaluate
from experiments.evaluate import EvaluateConfig
from experiments.evaluation.xares import suite
from experiments.evaluation.xares.config import XaresConfig
from experiments.evaluation.xares.pooled import Pooled
from experiments.evaluation.xares.table import NOT_HERE, TASKS
from experiments.evaluation.xares.tars import local_task, tar_task, tasks_in
from experiments.training.errors import UsageError
from pipelines.errors import DataError
from pipelines.tasks import LabelledSet

RATE = 1000


def write_tar(path, clips, rate=RATE):
  """A shard as the package's `write_audio_tar` makes it: KEY.wav, KEY.json, and so on."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w") as tar:
    for key, wave, note in clips:
      sound = io.BytesIO()
      soundfile.write(sound, wave, rate, format="WAV", subtype="FLOAT")
      for suffix, content in (("wav", sound.getvalue()), ("json", json.dumps(note).encode())):
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def tone(loudness, seconds=0.2, seed=0):
  draw = np.random.default_rng(seed)
  return (loudness * draw.uniform(-1, 1, round(seconds * RATE))).astype(np.float32)


def write_esc50(folder, classes=2, per_fold=6):
  """Five folds, two shards for the first; labels are numbers, as in the package's."""
  for fold in range(1, 6):
    clips = [
      (f"{fold}-{i}", tone(0.1 + 0.4 * (i % classes), seed=10 * fold + i), {"label": i % classes})
      for i in range(per_fold)
    ]
    if fold == 1:
      write_tar(folder / "wds-audio-fold-1-0000001.tar", clips[3:])
      clips = clips[:3]
    write_tar(folder / f"wds-audio-fold-{fold}-0000000.tar", clips)


class Loudness:
  """Two numbers for every 100 ms: any head can tell loud from quiet by them."""

  sampling_rate, hop_ms, output_dim = RATE, 100.0, 2
  settings = {"weights": "0" * 64}  # noqa: RUF012

  def __init__(self):
    self.heard = 0

  def group(self, samples):
    return samples

  def rows(self, group):
    return 4

  def frames(self, waves):
    self.heard += len(waves)
    level = [np.abs(wave[: len(wave) // 100 * 100]).reshape(-1, 100).mean(axis=1) for wave in waves]
    return [np.stack([x, 0.25 - x], axis=1).astype(np.float32) for x in level]


@pytest.fixture
def loudness(monkeypatch):
  source = Loudness()
  monkeypatch.setattr(suite, "open_frames", lambda path, **settings: source)
  return source


def test_folds_of_the_package(tmp_path):
  write_esc50(tmp_path)
  task = tar_task("esc50", str(tmp_path))
  assert task.folds
  assert list(task.parts) == [f"fold{n}" for n in range(1, 6)]
  assert [len(part) for part in task.parts.values()] == [6] * 5
  assert task.classes == ["0", "1"]
  np.testing.assert_array_equal(task.targets[task.parts["fold1"]], [0, 1] * 3)
  assert task.ids[0] == "wds-audio-fold-1-0000000.tar/1-0"
  np.testing.assert_array_equal(task.load(4, RATE), tone(0.1, seed=14))


def test_splits_share_files_and_pieces_are_cut(tmp_path):
  """voxlingua33 validates on its test part, and cuts pieces of 10 s; the rest is dropped."""
  waves = {"a": tone(0.5, 25.0), "b": tone(0.5, 3.0)}
  clips = [(key, wave, {"labels": key}) for key, wave in waves.items()]
  write_tar(tmp_path / "train_subset_0.tar", clips)
  write_tar(tmp_path / "dev_0.tar", clips[:1])
  task = tar_task("voxlingua33", str(tmp_path))
  assert not task.folds
  assert {name: list(part) for name, part in task.parts.items()} == {
    "train": [0, 1], "valid": [2], "test": [2],
  }  # fmt: skip
  assert task.recipe.batch_size == 64
  pieces = task.pieces(0, RATE)
  np.testing.assert_array_equal(np.concatenate(pieces), waves["a"][: 20 * RATE])
  (short,) = task.pieces(1, RATE)
  np.testing.assert_array_equal(short, np.pad(waves["b"], (0, 7 * RATE)))
  pooled = Pooled(np.zeros((5, 2), np.float32), np.array([0, 0, 1, 2, 2]))
  rounds = suite.rounds_of(pooled, task)
  assert [list(part.at[0]) for part in rounds] == [[0, 1, 2], [3, 4], [3, 4]]


def test_tags(tmp_path):
  for part in ("train", "validation", "eval"):
    notes = ({"soundevent": "Bark;Dog"}, {"soundevent": "Rain"}, {"soundevent": "Dog"})
    clips = [(str(i), tone(0.1 * i), note) for i, note in enumerate(notes)]
    write_tar(tmp_path / f"fsd50k_{part}_0.tar", clips)
  task = tar_task("fsd50k", str(tmp_path))
  assert task.classes == ["Bark", "Dog", "Rain"]
  np.testing.assert_array_equal(task.targets[:3], [[1, 1, 0], [0, 0, 1], [0, 1, 0]])
  assert task.recipe.metric == "mAP"
  assert not task.recipe.knn


def test_table_and_average(tmp_path, loudness, capsys, monkeypatch):
  write_esc50(tmp_path / "esc50", per_fold=12)
  labels = np.arange(60, dtype=np.int32) % 2
  local = LabelledSet(
    "mine", [str(i) for i in range(60)], labels, [f"g{i // 12}" for i in range(60)], "ab",
    lambda i, rate: tone(0.1 + 0.4 * labels[i], seed=i),
  )  # fmt: skip
  monkeypatch.setattr(suite, "open_task", lambda spec: local)
  cfg = EvaluateConfig(
    suite=("xares",), checkpoint=("a.pt",), tasks=(f"xares={tmp_path}", "mine"),
    out=(str(tmp_path / "r.json"),), xares=XaresConfig(seeds=2, work=str(tmp_path / "kept")),
  )  # fmt: skip
  evaluate.main(cfg)
  assert loudness.heard == 60 + 60
  first, second, average = json.loads((tmp_path / "r.json").read_text())
  assert (first["task"], first["rounds"], first["weight"]) == ("esc50", 5, 400)
  assert (second["task"], second["rounds"], second["weight"]) == ("mine", 5, 12)
  assert first["knn"] == 1
  want = (400 * first["linear"] + 12 * second["linear"]) / 412
  assert average["linear"] == pytest.approx(want)
  assert "| ESC-50" in capsys.readouterr().out
  evaluate.main(cfg)
  assert loudness.heard == 60 + 60, "what was done is not done again"
  assert json.loads((tmp_path / "r.json").read_text()) == [first, second, average]


def test_deviations_are_over_seeds_by_one_less(tmp_path, monkeypatch):
  """As those of the probes: of 20 and 30 %, the means over rounds."""
  write_esc50(tmp_path)
  task, pooled = tar_task("esc50", str(tmp_path)), Pooled(np.zeros((30, 2)), np.arange(30))
  monkeypatch.setattr(suite, "knn_scores", lambda *_: np.zeros(5))
  best = np.array([[0.1, 0.2], [0.3, 0.4]])
  for seeds, want in ((2, np.sqrt(2 * 0.05**2)), (1, None)):
    heads = SimpleNamespace(best=best[:, :seeds], last=best[:, :seeds])
    monkeypatch.setattr(suite, "train_heads", lambda *_, heads=heads: heads)
    found = suite.scored(pooled, task, XaresConfig(seeds=seeds))["linear_deviation"]
    assert found == (want if want is None else pytest.approx(want))


def test_a_killed_run_goes_on(tmp_path, monkeypatch):
  write_esc50(tmp_path / "tars")
  monkeypatch.setattr("experiments.evaluation.xares.pooled.BLOCK_CLIPS", 8)
  monkeypatch.setattr(suite, "scored", lambda pooled, *_: {"linear": float(pooled.x.sum())})
  task, source = tar_task("esc50", str(tmp_path / "tars")), Loudness()
  cfg = XaresConfig(work=str(tmp_path / "kept"))
  want = suite.score_task("x", source, task, cfg)
  assert source.heard == 30
  (folder,) = (tmp_path / "kept").glob("x-*/esc50-*")
  (folder / "scores.json").unlink()
  (folder / "block00001.npz").write_bytes(b"torn")
  (folder / "block00003.npz").unlink()
  again = suite.score_task("x", source, task, cfg)
  assert source.heard == 30 + 8 + 6
  assert {**again, "seconds": 0} == {**want, "seconds": 0}


def test_mistakes(tmp_path, loudness):
  for name, why in NOT_HERE.items():
    with pytest.raises(DataError, match=f"xares/{name}: is not run here"):
      tar_task(name, str(tmp_path))
    assert name not in TASKS
    assert why
  with pytest.raises(DataError, match="no such task; choose from asvspoof2015"):
    tar_task("esc", str(tmp_path))
  with pytest.raises(DataError, match=r"xares/esc50: no wds-audio-fold-1-\*\.tar in"):
    tar_task("esc50", str(tmp_path))
  with pytest.raises(DataError, match=r"no TASK/\*\.tar in there"):
    tasks_in(str(tmp_path))
  write_esc50(tmp_path)
  write_tar(tmp_path / "wds-audio-fold-3-0000000.tar", [("k", tone(0.1), {"class": 1})])
  with pytest.raises(DataError, match=r"fold-3-0000000\.tar: k\.json has no 'label'"):
    tar_task("esc50", str(tmp_path))
  (tmp_path / "wds-audio-fold-3-0000000.tar").write_bytes(b"no tar" * 200)
  with pytest.raises(DataError, match=r"fold-3-0000000\.tar: "):
    tar_task("esc50", str(tmp_path))
  with pytest.raises(UsageError, match="give --checkpoint"):
    evaluate.main(EvaluateConfig(suite=("xares",), rivals=False, checkpoint=()))
  with pytest.raises(UsageError, match="weight files alone"):
    evaluate.main(EvaluateConfig(suite=("xares",), rivals=True, checkpoint=("a",)))
  with pytest.raises(UsageError, match=r"--xares\.seeds 0"):
    suite.run([("a", "a")], (), (), XaresConfig(seeds=0))


def test_one_group_has_no_folds():
  one = LabelledSet("s", ["a", "b"], np.zeros(2, np.int32), ["g", "g"], ["x"], tone)
  with pytest.raises(DataError, match="folds are its groups"):
    local_task(one)
