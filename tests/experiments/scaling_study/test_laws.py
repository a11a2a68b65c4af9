"""Which laws a grid is fitted with, how they are told, and their picture."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from experiments.configs.scaling import ScalingConfig
from experiments.scaling_study import report
from experiments.scaling_study.laws import best_runs, fit_laws
from experiments.scaling_study.picture import draw
from tests.experiments.scaling_study.runs import LAW, points

CFG = ScalingConfig(resamples=6)


def test_a_grid_of_one_length():
  found = fit_laws(points(), CFG)
  assert list(found) == ["size and audio, 400 steps", "size", "audio", "compute"]
  joint = found["size and audio, 400 steps"]
  np.testing.assert_allclose(joint.law.exponents, LAW.exponents, rtol=1e-4)
  assert joint.runs == 9
  for title in ("size", "audio"):
    assert found[title].runs == 3
    assert not found[title].law.has_floor  # three runs lie on a law with a floor exactly


def test_lengths_are_fitted_apart_and_give_the_published_law():
  found = fit_laws(points(steps=(400, 1600)), CFG)
  joint = [title for title, law in found.items() if len(law.names) == 2]
  assert joint == [
    "size and audio, 400 steps",
    "size and audio, 1,600 steps",
    *(f"size and training, {share} % of the audio" for share in ("6", "25", "100")),
  ]
  assert "a" in report.figures(found[joint[-1]])


def test_a_single_size_has_no_law_of_size():
  runs = [p for p in points() if p.size == "small"]
  assert list(fit_laws(runs, CFG)) == ["audio", "compute"][: 1 + (len(best_runs(runs)) > 2)]


def test_the_best_runs_are_beaten_by_none_that_is_as_cheap():
  runs = points(0.02, steps=(400, 1600))
  best = best_runs(runs)
  for p in runs:
    assert (p in best) == all(
      q.loss > p.loss or q.flops > p.flops for q in runs if q is not p and q.flops <= p.flops
    )


def test_encoders_alone_can_be_counted():
  both, alone = (
    fit_laws(points(), dataclasses.replace(CFG, parameters=what))["size"]
    for what in ("all", "encoder")
  )
  assert both.law.centres[0] > alone.law.centres[0]


def test_table_figures_and_picture(tmp_path):
  runs = points(0.003, steps=(400, 1600))
  found = fit_laws(runs, CFG)
  text = report.write(runs, found, tmp_path)
  assert (tmp_path / "scaling.md").read_text() == text + "\n"
  assert text.count("\n| ") == len(runs)
  assert "L = E + A / N^alpha + B / D^beta over parameters, hours of audio; 9 runs" in text
  with (tmp_path / "scaling.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [float(row["loss"]) for row in rows] == [p.loss for p in runs]
  assert rows[0]["accuracy.digits"] == "0.5"
  content = json.loads((tmp_path / "scaling.json").read_text())
  assert content["runs"][0]["size"] == "small"
  law = content["laws"]["size and audio, 400 steps"]
  low, high = law["numbers"]["alpha"]["interval"]
  assert low < law["numbers"]["alpha"]["value"] == law["law"]["exponents"][0] < high
  picture = draw(runs, found, CFG, tmp_path / "scaling.png")
  assert picture.read_bytes().startswith(b"\x89PNG")
  assert picture.stat().st_size > 20_000


def test_runs_without_a_law_are_drawn_as_well(tmp_path):
  runs = points()[:1]
  assert fit_laws(runs, CFG) == {}
  report.write(runs, {}, tmp_path)
  assert draw(runs, {}, CFG, tmp_path / "scaling.png").stat().st_size > 10_000


@pytest.mark.parametrize("count", [1, 2])
def test_two_runs_are_no_law(count):
  assert "audio" not in fit_laws([p for p in points() if p.size == "large"][:count], CFG)
