"""The comparison with `xares`: turns, the table, refusals; the package itself."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest

from experiments import compare_xares
from experiments.compare_xares import CompareConfig, table
from experiments.training.errors import UsageError
from tests.experiments import stand_ins
from tests.experiments.evaluation.xares.test_suite import Loudness, write_esc50


@pytest.fixture
def cfg(tmp_path, monkeypatch):
  write_esc50(tmp_path / "env/esc50")
  monkeypatch.setattr(compare_xares, "open_frames", lambda path, **settings: Loudness())
  return CompareConfig(
    checkpoint="mn04.pt",
    task=f"xares/esc50={tmp_path}/env/esc50",
    seeds=2,
    package=(stand_ins.write(tmp_path / "site", "xares"),),
    threads=1,
    out=str(tmp_path / "xares.json"),
  )


def made_up(protocol, who, scores, used, clock):
  told = {"protocol": protocol, "who": who, "scores": scores}
  return {**told, "processor_seconds": used, "seconds": clock}


def test_both_sides_in_turn(cfg, capsys):
  compare_xares.main(cfg)
  lines = capsys.readouterr().out.splitlines()
  found = json.loads(compare_xares.Path(cfg.out).read_text())
  took = [(turn["protocol"], turn["who"]) for turn in found["turns"]]
  assert (
    took
    == [("linear", "xares"), ("linear", "here")] * 2
    + [
      ("knn", "xares"),
      ("knn", "here"),
    ]
    * 2
  )
  linear = [turn["scores"] for turn in found["turns"] if turn["protocol"] == "linear"]
  assert linear[0::2] == [[0.5], [0.51]]  # half of the first fold is of class 0; then the seed
  assert linear[1] == linear[3]
  assert len(linear[1]) == 2
  assert found["about"]["classes"] == 2
  assert found["about"]["rounds"] == 5
  assert lines[2].startswith("| linear   | xares          | 0.5050 | 0.0071 ")
  assert [line.split("|")[2].strip() for line in lines[2:]] == [
    "xares",
    "here",
    "here, compiled",
  ] * 2


def test_the_table_of_made_up_turns():
  turns = [
    made_up("linear", "xares", [0.8], 10.0, 8.0),
    made_up("linear", "here", [0.7, 0.9, 0.9], 4.0, 3.0),
    made_up("linear", "xares", [0.9], 12.0, 9.0),
    made_up("linear", "here", [0.7, 0.9, 0.9], 1.0, 0.7),
    made_up("linear", "xares", [1.0], 12.0, 9.0),
    made_up("linear", "here", [0.7, 0.9, 0.9], 2.0, 0.5),
    made_up("knn", "xares", [0.6], 7.0, 7.0),  # reads its files for the first time
    made_up("knn", "xares", [0.6], 5.0, 5.0),
    made_up("knn", "here", [0.6], 3.0, 3.0),
  ]
  cells = [[c.strip() for c in line.strip("|").split("|")] for line in table(turns).splitlines()]
  assert cells[2] == ["linear", "xares", "0.9000", "0.1000", "34.00", "26.00"]
  assert cells[3] == ["linear", "here", "0.8333", "0.1155", "4.00", "3.00"]
  assert cells[4] == ["linear", "here, compiled", "", "", "1.50", "0.60"]
  assert cells[5] == ["knn", "xares", "0.6000", "", "5.00", "5.00"]
  assert cells[6] == ["knn", "here", "0.6000", "", "3.00", "3.00"]
  assert len(cells) == 7


def test_without_the_package_one_line_says_how_to_get_it(cfg, tmp_path):
  broken = stand_ins.write_broken(tmp_path / "broken", "xares")
  how = r"xares does not run \(ModuleNotFoundError.*pip install --no-deps xares==0\.1\.3"
  with pytest.raises(UsageError, match=how) as told:
    compare_xares.main(dataclasses.replace(cfg, package=(broken,)))
  assert "\n" not in str(told.value)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"task": ""}, "--task is missing"),
    ({"checkpoint": ""}, "--checkpoint is missing"),
    ({"seeds": 0}, "--seeds: at least 1"),
    ({"out": "xares.csv"}, r"--out xares\.csv: end the name in \.json"),
    ({"package": ("nowhere",)}, "--package nowhere: no such folder; name those that hold xares"),
  ],
)
def test_wrong_settings_get_one_line(cfg, change, message):
  with pytest.raises(UsageError, match=message):
    compare_xares.main(dataclasses.replace(cfg, **change))


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.skipif(not importlib.util.find_spec("xares"), reason="needs the package xares")
def test_the_package_itself(cfg):
  """Loud and quiet clips: the votes are the same, the heads near."""
  compare_xares.main(dataclasses.replace(cfg, package=()))
  turns = json.loads(compare_xares.Path(cfg.out).read_text())["turns"]
  scores = {
    (protocol, who): np.mean(
      [t["scores"] for t in turns if (t["protocol"], t["who"]) == (protocol, who)]
    )
    for protocol in compare_xares.PROTOCOLS
    for who in (compare_xares.THERE, compare_xares.HERE)
  }
  assert scores["knn", "xares"] == pytest.approx(scores["knn", "here"], abs=1e-6)
  assert scores["linear", "xares"] == pytest.approx(scores["linear", "here"], abs=0.1)
