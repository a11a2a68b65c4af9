"""k-NN before and after: what is kept between two starts of a run, and how it is shown."""

import json

import numpy as np
import pytest

from experiments.evaluation import before_after
from experiments.evaluation.before_after import CALIBRATED, INITIAL, TRAINED, BeforeAfter
from experiments.evaluation.rivals import RIVALS
from pipelines.errors import DataError
from pipelines.tasks import open_task


@pytest.fixture(scope="module")
def synthetic():
  return open_task("synthetic").in_memory()


@pytest.fixture
def comparison(synthetic, tmp_path, monkeypatch):
  """Of one task, with an encoder whose features are the label or noise: as `variables` says."""

  def embed_set(embed, variables, task, pooling):
    assert pooling == "mean"
    classes = np.eye(max(task.labels) + 1)[np.asarray(task.labels)]
    return (
      np.random.default_rng(0).standard_normal(classes.shape) + variables["knows"] * 100 * classes
    )

  monkeypatch.setattr(before_after, "embed_set", embed_set)
  monkeypatch.setattr(
    before_after,
    "log_mel_statistics",
    lambda task, cfg: np.random.default_rng(1).standard_normal((len(task.labels), 3)),
  )
  return BeforeAfter((synthetic,), "mean", 3, True, tmp_path / "run" / "knn.json")


def test_results_are_added_and_survive_a_restart(comparison, synthetic):
  assert comparison.results() == {}
  comparison.encoder(INITIAL, None, {"knows": 0})
  again = BeforeAfter((synthetic,), "mean", 3, True, comparison.path)
  again.encoder(TRAINED, None, {"knows": 1})
  results = again.results()
  assert list(results) == [INITIAL, TRAINED]
  name = synthetic.name
  assert results[TRAINED][name]["accuracy"] == 1.0
  assert results[INITIAL][name]["accuracy"] < 0.5
  assert json.loads(comparison.path.read_text())["results"] == results
  # Figures of another setting would not compare, so they do not count.
  assert BeforeAfter((synthetic,), "mean", 4, True, comparison.path).results() == {}
  assert BeforeAfter((synthetic,), "max", 3, True, comparison.path).results() == {}
  assert [p.name for p in comparison.path.parent.iterdir()] == ["knn.json"]


def test_rivals_are_evaluated_once(comparison, monkeypatch):
  comparison.evaluate_rivals()
  first = comparison.results()
  assert list(first) == list(RIVALS)
  monkeypatch.setattr(before_after, "log_mel_statistics", None)
  comparison.evaluate_rivals()
  assert comparison.results() == first


def test_rivals_can_be_left_out(synthetic, tmp_path):
  BeforeAfter((synthetic,), "mean", 3, False, tmp_path / "knn.json").evaluate_rivals()
  assert not (tmp_path / "knn.json").exists()


def test_the_table_tells_the_story_in_order(comparison, synthetic):
  for name, knows in ((TRAINED, 1), (CALIBRATED, 0), (INITIAL, 0)):
    comparison.encoder(name, None, {"knows": knows})
  comparison.evaluate_rivals()
  lines = comparison.table().splitlines()
  groups = len(set(synthetic.groups))
  assert f"{synthetic.name} ({groups} groups)" in lines[0]
  first = [line.strip("| ").split("|")[0].strip() for line in lines[2:]]
  assert first == [INITIAL, CALIBRATED, TRAINED, *RIVALS]
  assert "100.0 %" in lines[4]
  assert comparison.line(TRAINED) == f"{TRAINED}: {synthetic.name} 100.0 %"


def test_every_task_is_opened_before_the_training(tmp_path):
  with pytest.raises(DataError, match="away") as caught:
    BeforeAfter.open(("synthetic", f"esc10={tmp_path / 'away'}"), "mean", 10, True, tmp_path)
  assert "\n" not in str(caught.value)
  opened = BeforeAfter.open((), "mean", 10, True, tmp_path)
  assert (opened.tasks, opened.path) == ((), tmp_path / "knn.json")
