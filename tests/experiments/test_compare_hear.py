"""The comparison with `heareval`: turns, what is kept, the table, refusals; the package itself."""

import dataclasses
import importlib.util
import json

import pytest

from experiments import compare_hear
from experiments.compare_hear import CompareConfig, table
from experiments.evaluation.hear.embeddings import embed_parts
from experiments.evaluation.hear.folder import open_folder
from experiments.training.errors import UsageError
from pipelines.errors import DataError
from tests.experiments import stand_ins
from tests.experiments.evaluation.hear.small import Spectrum, write_folder

FOLDS = ("fold00", "fold01", "fold02")
POINT = {"hidden_layers": 2, "initial": "uniform", "learning_rate": 3.2e-4}


@pytest.fixture
def cfg(tmp_path):
  folder = write_folder(tmp_path / "tones", FOLDS, {})
  embed_parts(open_folder(folder), Spectrum(), tmp_path / "embeddings")
  return CompareConfig(
    task=str(folder),
    embeddings=str(tmp_path / "embeddings"),
    seeds=(1, 0),
    grid_points=2,
    first_split=True,
    package=(stand_ins.write(tmp_path / "site", "heareval"),),
    threads=1,
    out=str(tmp_path / "hear.json"),
  )


def made_up(who, seed, tests, validation, used, clock):
  return {
    "who": who,
    "seed": seed,
    "point": POINT,
    "splits": {
      f"fold{i}": {"validation": validation, "scores": {"top1_acc": test}}
      for i, test in enumerate(tests)
    },
    "processor_seconds": used,
    "seconds": clock,
  }


def test_turns_are_taken_in_turn_and_only_once(cfg, monkeypatch, capsys):
  asked = []

  def run_task(folder, parts, search, out):
    asked.append(search)
    assert list(parts) == list(FOLDS)
    told = {"validation": 0.5, "scores": {"top1_acc": 0.25}, "looks": 3}
    found = {"point": POINT, "tried": [{**POINT, "validation": 0.5}] * search.points}
    return {"splits": {"fold00": told}, "search": found}

  monkeypatch.setattr(compare_hear, "run_task", run_task)
  compare_hear.main(cfg)
  shown = capsys.readouterr().out.splitlines()
  found = json.loads((path := compare_hear.Path(cfg.out)).read_text())
  turns = found["turns"]
  took = [(turn["seed"], turn["who"]) for turn in turns]
  assert took == [(1, "heareval"), (1, "here"), (0, "heareval"), (0, "here")]
  there, ours = turns[:2]
  # The stand-in's score tells which seed it drew with.
  assert there["splits"] == {"fold00": {"validation": 0.5, "scores": {"top1_acc": 0.76}}}
  assert [tried["validation"] for tried in there["tried"]] == [0.5, 0.25]
  assert there["point"] == {"hidden_layers": 1, "initial": "normal", "learning_rate": 0.5}
  assert ours["splits"] == {"fold00": {"validation": 0.5, "scores": {"top1_acc": 0.25}}}
  assert len(ours["tried"]) == 2
  assert [(search.seed, search.first_split) for search in asked] == [(1, True), (0, True)]
  assert set(there) == set(ours)
  assert {"python", "heareval", "torch"} <= set(found["about"]["package"])
  assert len(shown) == 2 + 4 + 2 + 2
  assert shown[2].startswith("| 1    | heareval | top1_acc | 0.7600")

  compare_hear.main(dataclasses.replace(cfg, seeds=(0, 2)))
  again = json.loads(path.read_text())["turns"]
  assert again[:4] == turns
  assert [(turn["seed"], turn["who"]) for turn in again[4:]] == [(2, "heareval"), (2, "here")]
  assert "\n| 1 " not in capsys.readouterr().out
  with pytest.raises(UsageError, match="holds turns with other settings"):
    compare_hear.main(dataclasses.replace(cfg, grid_points=1))
  path.write_text("[]")
  with pytest.raises(UsageError, match=r"hear\.json: is no file of this command"):
    compare_hear.main(cfg)


def test_the_table_of_made_up_turns():
  turns = [
    made_up("heareval", 0, [0.8, 0.9], 0.9, 60.0, 40.0),
    made_up("here", 0, [0.7, 0.8], 0.8, 30.0, 20.0),
    made_up("heareval", 1, [0.9, 1.0], 0.7, 60.0, 40.0),
    made_up("here", 1, [0.8, float("nan")], 0.9, 10.0, 5.0),
    made_up("heareval", 2, [0.1, 0.1], 0.1, 900.0, 900.0),  # not yet on both sides
  ]
  lines = table(turns, "top1_acc").splitlines()
  cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
  chosen = "2 x uniform, 0.00032"
  assert cells[2] == ["0", "heareval", "top1_acc", "0.8500", "0.9000", chosen, "60.0", "40.0"]
  assert cells[5][3] == "0.8000"  # of the split that has a figure
  assert cells[7][1:5] == ["heareval", "top1_acc", "0.9000 ± 0.0707", "0.8000"]
  assert cells[8][1:] == ["here", "top1_acc", "0.7750 ± 0.0354", "0.8500", "", "20.0", "12.5"]
  assert "takes 3.00 times the processor time and 3.20 times the time on the clock" in lines[-1]
  assert "2 seed(s)" in lines[-1]


def test_one_side_alone_has_no_mean():
  text = table([made_up("heareval", 0, [0.5], 0.5, 1.0, 1.0)], "top1_acc")
  assert "mean" not in text
  assert "times" not in text


def test_without_the_package_one_line_says_how_to_get_it(cfg, tmp_path):
  broken = stand_ins.write_broken(tmp_path / "broken", "heareval")
  how = r"heareval does not run \(ModuleNotFoundError.*pip install --no-deps heareval==2021\.1\.3"
  with pytest.raises(UsageError, match=how) as told:
    compare_hear.main(dataclasses.replace(cfg, package=(broken,)))
  assert "\n" not in str(told.value)
  assert not compare_hear.Path(cfg.out).exists()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"task": ""}, "--task is missing"),
    ({"embeddings": ""}, "--embeddings is missing"),
    ({"seeds": ()}, "--seeds : different ones"),
    ({"seeds": (0, 0)}, "--seeds 0 0: different ones"),
    ({"grid_points": 17}, "17: the grid has 16"),
    ({"out": "hear.md"}, r"--out hear\.md: end the name in \.json"),
    ({"package": ("nowhere",)}, "--package nowhere: no such folder; name those that hold heareval"),
  ],
)
def test_wrong_settings_get_one_line(cfg, change, message):
  with pytest.raises(UsageError, match=message):
    compare_hear.main(dataclasses.replace(cfg, **change))


def test_embeddings_of_other_clips_are_refused(cfg, tmp_path):
  other = write_folder(tmp_path / "other", FOLDS, {}, clips=3)
  with pytest.raises(DataError, match=r"fold00\.npz: the clips are not those of .*fold00\.json"):
    compare_hear.main(dataclasses.replace(cfg, task=str(other)))
  (tmp_path / "embeddings" / "fold01.npz").unlink()
  with pytest.raises(DataError, match=r"fold01\.npz.*HEAR_OUT/MODEL/TASK/embeddings"):
    compare_hear.main(cfg)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.skipif(not importlib.util.find_spec("heareval"), reason="needs the package heareval")
def test_the_package_itself(cfg):
  """The same points in the same order, and tones that both tell apart."""
  compare_hear.main(dataclasses.replace(cfg, package=(), seeds=(0,)))
  there, ours = json.loads(compare_hear.Path(cfg.out).read_text())["turns"]
  points = [
    [(t["hidden_layers"], t["initial"], t["learning_rate"]) for t in turn["tried"]]
    for turn in (there, ours)
  ]
  assert points[0] == points[1]
  for turn in (there, ours):
    assert turn["splits"]["fold00"]["scores"]["top1_acc"] > 0.9
