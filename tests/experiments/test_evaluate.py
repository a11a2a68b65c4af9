"""The command: one table over encoders, rivals and tasks, and one line for a mistake."""

import json

import numpy as np
import pytest

from experiments import evaluate
from experiments.evaluate import EvaluateConfig
from experiments.training.errors import UsageError
from pipelines.errors import DataError
from pipelines.tasks import LabelledSet

LABELS = np.tile(np.arange(2, dtype=np.int32), 20)


def easy_set(spec):
  """Loud and quiet clips: any measure of power tells them apart."""
  rng = np.random.default_rng(0)
  waves = [(0.01 + 0.5 * y) * rng.uniform(-1, 1, 8_000).astype(np.float32) for y in LABELS]
  groups = [f"g{i % 4 // 2}" for i in range(40)]
  return LabelledSet(spec, [str(i) for i in range(40)], LABELS, groups, "ab", waves.__getitem__)


@pytest.fixture
def fakes(monkeypatch):
  monkeypatch.setattr(evaluate, "open_task", easy_set)
  monkeypatch.setattr(evaluate, "encoder", lambda path, cfg: lambda task: np.stack(
    [[np.square(task.load(i)).mean(), 1.0] for i in range(len(task))]
  ))  # fmt: skip
  monkeypatch.setattr(evaluate, "RIVALS", {})


def test_table_and_file(fakes, tmp_path, capsys):
  cfg = EvaluateConfig(
    checkpoint=("run/a.pt", "run/b.pt"), tasks=("s", "t"), metric="euclidean", k=3,
    out=str(tmp_path / "r.json"),
  )  # fmt: skip
  evaluate.main(cfg)
  out = capsys.readouterr().out
  assert len(out.strip().split("\n")) == 2 + 4
  assert "| a.pt     | 2    | s    | 100.0 %" in out
  records = json.loads((tmp_path / "r.json").read_text())
  assert [(r["features"], r["task"]) for r in records] == [
    ("a.pt", "s"), ("b.pt", "s"), ("a.pt", "t"), ("b.pt", "t"),
  ]  # fmt: skip
  assert records[0]["accuracy"] == 1.0
  assert records[0]["per_group"] == {"g0": 1.0, "g1": 1.0}


def test_encoders_of_one_name_are_told_apart():
  assert evaluate.name_of("x/encoder.pt", ("x/encoder.pt", "y/other.pt")) == "encoder.pt"
  assert evaluate.name_of("x/encoder.pt", ("x/encoder.pt", "y/encoder.pt")) == "x/encoder.pt"
  assert evaluate.name_of("run/", ("run/",)) == "run"


def test_mistakes():
  with pytest.raises(UsageError, match="--checkpoint"):
    evaluate.main(EvaluateConfig())
  with pytest.raises(UsageError, match="--tasks is empty"):
    evaluate.main(EvaluateConfig(rivals=True, tasks=()))
  with pytest.raises(UsageError, match="--k 0"):
    evaluate.main(EvaluateConfig(rivals=True, k=0))
  with pytest.raises(UsageError, match="--out"):
    evaluate.main(EvaluateConfig(rivals=True, out="table.doc"))
  with pytest.raises(DataError, match="no folder"):
    evaluate.main(EvaluateConfig(rivals=True, tasks=("esc10=/not/there",)))


def test_the_linear_suite(fakes, capsys):
  evaluate.main(EvaluateConfig(suite="linear", checkpoint=("a.pt",), tasks=("s",)))
  assert "100.0 %" in capsys.readouterr().out
  with pytest.raises(UsageError, match="--c 0"):
    evaluate.main(EvaluateConfig(suite="linear", rivals=True, c=0.0))
