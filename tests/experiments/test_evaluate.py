"""The command: one table over encoders, probes and tasks, and one line for a mistake."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from experiments import evaluate
from experiments.embedding.embedder import Embedding
from experiments.evaluate import EvaluateConfig
from experiments.evaluation.trained import AttentionConfig, MlpConfig
from experiments.training import cli
from experiments.training.errors import UsageError
from pipelines.errors import DataError
from pipelines.tasks import LabelledSet

LABELS = np.tile(np.arange(2, dtype=np.int32), 20)


def easy_set(spec):
  """Loud and quiet clips: any measure of power tells them apart."""
  rng = np.random.default_rng(0)
  waves = [(0.01 + 0.5 * y) * rng.uniform(-1, 1, 800).astype(np.float32) for y in LABELS]
  groups = [f"g{i % 4 // 2}" for i in range(40)]
  ids = [str(i) for i in range(40)]
  return LabelledSet(spec, ids, LABELS, groups, "ab", lambda i, rate=16_000: waves[i])


class Power:
  """The scene is the power; frames are that of each half."""

  sample_rate = 16_000

  def __init__(self, spec, timestamps):
    self.settings = {"weights": spec, "timestamps": timestamps}
    self.heard = 0

  def group(self, samples):
    return samples

  def rows(self, group):
    del group
    return 16

  def embed(self, waves):
    self.heard += len(waves)
    made = [Embedding(np.array([np.square(wave).mean(), 1], np.float32)) for wave in waves]
    if not self.settings["timestamps"]:
      return made
    halves = [np.square(wave.reshape(2, -1)).mean(axis=1)[:, None] for wave in waves]
    times = np.arange(2, dtype=np.float32)
    return [Embedding(a.scene, half, times) for a, half in zip(made, halves, strict=True)]


@pytest.fixture
def fakes(monkeypatch):
  """Encoders that were opened."""
  opened = []

  def open_encoder(spec, *, features, pooling, timestamps):
    del features, pooling
    opened.append(Power(spec, timestamps))
    return opened[-1]

  monkeypatch.setattr(evaluate, "open_task", easy_set)
  monkeypatch.setattr(evaluate, "open_encoder", open_encoder)
  return opened


def config(**changes):
  return EvaluateConfig(**{"metric": "euclidean", "k": 3, "cache": "off", **changes})


def test_table_and_files(fakes, tmp_path, capsys):
  out = tuple(str(tmp_path / f"r{suffix}") for suffix in (".json", ".csv", ".md"))
  evaluate.main(config(checkpoint=("run/a.pt", "run/b.pt"), tasks=("s", "t"), out=out))
  table = capsys.readouterr().out
  assert len(table.strip().split("\n")) == 2 + 4
  assert "| a.pt     | 2    | s    | 100.0 % (100.0 to 100.0) |" in table
  assert (tmp_path / "r.md").read_text() == table
  records = json.loads((tmp_path / "r.json").read_text())
  assert [(r["features"], r["task"]) for r in records] == [
    ("a.pt", "s"), ("b.pt", "s"), ("a.pt", "t"), ("b.pt", "t"),
  ]  # fmt: skip
  assert records[0]["accuracy"] == 1.0
  assert records[0]["per_group"] == {"g0": 1.0, "g1": 1.0}
  assert (records[0]["suite"], records[0]["k"]) == ("knn", 3)
  with (tmp_path / "r.csv").open() as file:
    assert [row["per_group.g1"] for row in csv.DictReader(file)] == ["1.0"] * 4


def test_every_suite_at_once_and_a_second_run_that_hears_nothing(fakes, tmp_path, capsys):
  quick = {"epochs": 40, "peak_lr": 1e-1}
  cfg = config(
    suite=("knn", "linear", "mlp", "attention"), checkpoint=("a.pt",), tasks=("s",), seeds=2,
    mlp=MlpConfig(**quick, hidden=4, dropout=0.0), attention=AttentionConfig(**quick),
    cache=str(tmp_path / "cache"), out=(str(tmp_path / "r.json"),),
    picture=str(tmp_path / "r.png"),
  )  # fmt: skip
  evaluate.main(cfg)
  out = capsys.readouterr()
  assert "| k-NN " in out.out
  assert "| attention " in out.out
  assert "0 of 40 clips found, 40 embedded" in out.err
  assert "4/4  s, a.pt: attention" in out.err
  records = json.loads((tmp_path / "r.json").read_text())
  assert [(r["suite"], r["accuracy"]) for r in records] == [
    ("knn", 1.0), ("linear", 1.0), ("mlp", 1.0), ("attention", 1.0),
  ]  # fmt: skip
  assert records[2]["seeds"] == [1.0, 1.0]
  assert (tmp_path / "r.png").stat().st_size > 5_000
  evaluate.main(dataclasses.replace(cfg, out=(), picture=""))
  assert capsys.readouterr().out == out.out
  assert [one.heard for one in fakes] == [40, 0]


def test_feature_sets_are_rows_of_their_own(fakes, monkeypatch, capsys):
  """One is the power, the other the same for every clip."""
  halves = {"power": np.array([0]), "nothing": np.array([1])}
  monkeypatch.setattr(evaluate, "columns_of", lambda embedder, features: halves)
  evaluate.main(EvaluateConfig(checkpoint=("a",), apart=True, features=("power+nothing",)))
  lines = capsys.readouterr().out.splitlines()
  told = {
    cells[1]: cells[4] for line in lines[2:] if (cells := [c.strip() for c in line.split("|")])
  }
  assert told["a power"].startswith("100.0 %")
  assert told["a nothing"].startswith("50.0 %")
  assert len(fakes) == 1
  monkeypatch.setattr(evaluate, "columns_of", lambda embedder, features: {})
  with pytest.raises(UsageError, match="--apart: none of the encoders is an MN or a DyMN"):
    evaluate.main(EvaluateConfig(checkpoint=("a",), apart=True))


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (
      {"features": ("blocks+mel",)},
      "are joined under --apart; else write blocks mel",
    ),
    ({"features": ("blocks+mel", "mel+blocks"), "apart": True}, "each row must be another one"),
    ({"features": ()}, "--features is empty"),
    ({"apart": True, "suite": ("hear",)}, "--apart: is of probes"),
  ],
)
def test_feature_sets_that_make_no_rows(changes, words):
  with pytest.raises(UsageError, match=words):
    evaluate.check(EvaluateConfig(checkpoint=("a",), **changes))


def test_flags(fakes):
  flags = "--suite knn linear --mlp.hidden 8 --seeds 3 --out a.md b.json --checkpoint x y"
  cfg = cli.parse(flags.split(), {"knn": EvaluateConfig()}, prog="evaluate", default="knn")
  assert (cfg.suite, cfg.mlp.hidden, cfg.out) == (("knn", "linear"), 8, ("a.md", "b.json"))


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"checkpoint": ()}, "--checkpoint"),
    ({"suite": ()}, "--suite is empty"),
    ({"tasks": ()}, "--tasks is empty"),
    ({"k": 0}, "--k 0"),
    ({"c": 0.0}, "--c 0"),
    ({"seeds": 0}, "--seeds 0"),
    ({"mlp": MlpConfig(hidden=0)}, "--mlp.hidden 0: at least 1"),
    ({"mlp": MlpConfig(dropout=1.0)}, "--mlp.dropout 1: from 0 to below 1"),
    ({"attention": AttentionConfig(held_out=1.0)}, "--attention.held_out 1: a share"),
    ({"attention": AttentionConfig(peak_lr=0.0)}, "--attention.peak_lr 0"),
    ({"out": ("table.doc",)}, "--out table.doc"),
    ({"picture": "table.bmp"}, "--picture table.bmp"),
  ],
)
def test_mistakes(changes, words):
  with pytest.raises(UsageError, match=words):
    evaluate.main(config(**{"checkpoint": ("log_mel",), **changes}))


def test_a_wrong_folder_shows_before_anything_is_embedded():
  with pytest.raises(DataError, match="no folder"):
    evaluate.main(EvaluateConfig(rivals=True, tasks=("esc10=/not/there",)))
