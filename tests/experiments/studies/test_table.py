"""Tables of studies: means, deviations, paired gains."""

import pytest

from experiments.studies.cell import accuracy_by_group, scores_of_run
from experiments.studies.table import Gain, draw_study, study_table, with_gains

ROWS = {
  "labels": {"seed 0": {"accuracy": 0.5, "log_loss": 1.0}, "seed 1": {"accuracy": 0.7}},
  "teacher": {"seed 1": {"accuracy": 0.8, "log_loss": 0.25}, "seed 2": {"accuracy": 0.9}},
}


def test_a_row_is_mean_deviation_ends_and_time():
  table = study_table(ROWS, ["accuracy", "log_loss"], {"labels": 90.0})
  _, _, labels, teacher = table.split("\n")
  assert [x.strip() for x in labels.strip("|").split("|")] == [
    "labels", "60.0 ± 14.1", "1.000", "50.0", "70.0", "2", "1.5 min",
  ]  # fmt: skip
  assert teacher.split("|")[-2].strip() == ""


def test_gains_are_paired():
  """Only seed 1 stands in both rows, and only its accuracy."""
  rows = with_gains(ROWS, [Gain("gain", "teacher", "labels")])
  assert list(rows) == ["labels", "teacher", "gain"]
  assert rows["gain"] == {"seed 1": {"accuracy": pytest.approx(0.1)}}


def test_what_runs_and_evaluations_leave():
  report = {"set": "digits", "clips": 5, "accuracy": 0.75, "log_loss": 0.5}
  figures = {"accuracy": 0.75, "log_loss": 0.5}
  assert scores_of_run(3)(report) == {"seed 3": figures}
  assert scores_of_run()({"folds": {"1": report, "2": report}}) == {
    "fold 1": figures,
    "fold 2": figures,
  }
  assert accuracy_by_group([{"per_group": {"fold1": 0.5, "george": 1.0}}]) == {
    "fold 1": {"accuracy": 0.5},
    "george": {"accuracy": 1.0},
  }


def test_the_picture_is_drawn(tmp_path):
  path = draw_study(ROWS, "accuracy", tmp_path / "study.png", "a title")
  assert path.read_bytes().startswith(b"\x89PNG")
