"""The suite from folders to tables: scores, what is kept, what is refused."""

import dataclasses
import functools
import json

import pytest

from experiments import evaluate
from experiments.evaluation.hear import run
from experiments.evaluation.hear.config import HearConfig
from experiments.evaluation.hear.embeddings import embed_parts
from experiments.evaluation.hear.folder import open_folder
from experiments.evaluation.hear.grid import Grid
from experiments.evaluation.hear.task import Search, run_task
from experiments.training.errors import UsageError
from tests.experiments.evaluation.hear.small import Spectrum, write_folder

FOLDS = ("fold00", "fold01", "fold02")
GRID = Grid(learning_rates=(3e-2, 1e-2), hidden=16, max_epochs=30, batch_size=64)
EVENTS = {
  "task_name": "dcase2016_task2",
  "embedding_type": "event",
  "prediction_type": "multilabel",
  "split_mode": "trainvaltest",
  "evaluation": ["event_onset_200ms_fms", "segment_1s_er"],
}


@pytest.fixture
def small_grid(monkeypatch):
  monkeypatch.setattr(run, "Search", functools.partial(Search, grid=GRID))


def test_the_suite(tmp_path, small_grid, capsys):
  for number in (0, 1):  # a task of two folders, of which the score is the mean
    given = {
      "task_name": f"beehive_states_fold{number}",
      "split_mode": "trainvaltest",
      "evaluation": ["aucroc", "mAP", "d_prime", "top1_acc"],
    }
    write_folder(tmp_path / f"tasks/b{number}", ("train", "valid", "test"), given, seed=number)
  write_folder(tmp_path / "tasks/small", FOLDS, {"mode": "small"})
  cfg = HearConfig(str(tmp_path / "tasks"), out=str(tmp_path / "out"), grid_points=2)
  run.run_hear(cfg, [("spectrum", Spectrum)], [str(tmp_path / "all.json")])
  tasks, groups = capsys.readouterr().out.strip().split("\n\n")
  beehive, small = json.loads((tmp_path / "all.json").read_text())
  assert (beehive["task"], beehive["group"], beehive["score"]) == ("beehive", "general", "aucroc")
  assert beehive["value"] > 0.9
  percent = 100 * beehive["value"] / 0.877965838
  assert beehive["percent_of_best"] == pytest.approx(percent)
  assert list(beehive["scores"]) == ["aucroc", "mAP", "d_prime", "top1_acc"]
  assert (small["task"], small["group"], small["percent_of_best"]) == ("small", None, None)
  assert small["value"] > 0.9
  assert len(tasks.splitlines()) == 4
  assert f"{percent:.2f} (1 of 7)" in groups
  assert "- (0 of 5)" in groups


def test_results_of_each_split_are_kept(tmp_path):
  folder = open_folder(write_folder(tmp_path / "tones", FOLDS, {}))
  parts = embed_parts(folder, Spectrum(), tmp_path / "embeddings")
  search, out = Search(GRID, points=3, side_by_side=1), tmp_path / "out"
  whole = run_task(folder, parts, search, out)
  assert list(whole["splits"]) == list(FOLDS)
  assert whole["search"]["point"] in [
    {k: tried[k] for k in ("hidden_layers", "initial", "learning_rate")}
    for tried in whole["search"]["tried"]
  ]
  scores = [tried["validation"] for tried in whole["search"]["tried"]]
  assert whole["search"]["chosen"] == scores.index(max(scores))  # the first of equal ones
  stamp = (out / "grid.json").stat().st_mtime_ns
  (out / "fold01.json").unlink()
  again = run_task(folder, parts, search, out)
  assert again["scores"] == whole["scores"]
  assert again["splits"]["fold01"]["looks"] == whole["splits"]["fold01"]["looks"]
  assert (out / "grid.json").stat().st_mtime_ns == stamp
  alone = run_task(folder, parts, dataclasses.replace(search, first_split=True), out)
  assert list(alone["splits"]) == ["fold00"]
  assert alone["scores"] == whole["splits"]["fold00"]["scores"]
  # The first split by itself is what it was among the others.
  (out / "fold00.json").unlink()
  once_more = run_task(folder, parts, search, out)["splits"]["fold00"]
  assert once_more["looks"] == whole["splits"]["fold00"]["looks"]
  with pytest.raises(UsageError, match="of other settings.*seed"):
    run_task(folder, parts, dataclasses.replace(search, seed=1), out)


def test_events_by_score(tmp_path):
  pytest.importorskip("sed_eval", reason="needs the extra [hear]")
  path = write_folder(tmp_path / "office", ("train", "valid", "test"), EVENTS, clips=4)
  folder = open_folder(path)
  parts = embed_parts(folder, Spectrum(), tmp_path / "embeddings")
  grid = dataclasses.replace(GRID, max_epochs=60, batch_size=64)
  result = run_task(folder, parts, Search(grid, points=2), tmp_path / "out")
  scores = result["scores"]
  assert scores["event_onset_200ms_fms"] == scores["event_onset_200ms_fms_f_measure"] > 0.9
  assert scores["segment_1s_er"] < 0.2
  post = result["splits"]["test"]["postprocessing"]
  assert (post["median_filter_ms"], post["min_duration"]) in folder.postprocessing


def test_events_by_loss(tmp_path):
  pytest.importorskip("sed_eval", reason="needs the extra [hear]")
  own = {
    "task_name": "music",
    "use_scoring_for_early_stopping": False,
    "evaluation": ["event_onset_50ms_fms"],
    "evaluation_params": {
      "event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]},
      "task_specific_param_grid": {"max_epochs": [20], "check_val_every_n_epoch": [1]},
    },
  }
  path = write_folder(tmp_path / "music", ("train", "valid", "test"), {**EVENTS, **own}, clips=2)
  folder = open_folder(path)
  parts = embed_parts(folder, Spectrum(), tmp_path / "embeddings")
  result = run_task(folder, parts, Search(GRID, points=2), tmp_path / "out")
  losses = [tried["validation"] for tried in result["search"]["tried"]]
  assert result["search"]["chosen"] == losses.index(min(losses))
  assert 0 < min(losses) < 1


@pytest.mark.parametrize(
  ("given", "match"),
  [
    ({"tasks": ""}, "--hear.tasks is missing"),
    ({"out": ""}, "--hear.out is missing"),
    ({"only": ("esc50",)}, "--hear.only esc50: not there; found: tones"),
    ({"grid_points": 17}, "--hear.grid_points 17"),
    ({"side_by_side": -2}, "--hear.side_by_side -2"),
    ({"seed": -1}, "--hear.seed -1"),
  ],
)
def test_refusals(tmp_path, given, match):
  write_folder(tmp_path / "tones", FOLDS, {}, clips=1)
  cfg = HearConfig(**{"tasks": str(tmp_path), "out": str(tmp_path / "out"), **given})
  with pytest.raises(UsageError, match=match):
    run.run_hear(cfg, [])


def test_the_command_asks_for_weights():
  with pytest.raises(UsageError, match="--checkpoint"):
    evaluate.main(evaluate.EvaluateConfig(suite=("hear",)))
