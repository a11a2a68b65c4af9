"""How the mean of the best states of a run is scored beside the best alone."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.configs.supervised import SupervisedConfig
from experiments.supervised.report import Report
from experiments.supervised.run import _report
from experiments.training.mesh import make_mesh
from experiments.training.selection import Check, SelectConfig, _write_state

BEST = (Check(3, 0.9), Check(1, 0.8))
FOUND = {  # of the mean of the states 1 and 3, which is 2, and of state 3
  "validation": {"mean": {"accuracy": 12.0}, "best": {"accuracy": 13.0}},
  "test": {"mean": {"accuracy": 102.0}, "best": {"accuracy": 103.0}},
}


@pytest.mark.parametrize("validated", [True, False])
def test_every_state_is_scored_once_on_every_part(tmp_path, validated):
  (tmp_path / "best").mkdir()
  for check in BEST:
    arrays = {"params/w": np.full(2, check.step, np.float32)}
    _write_state(tmp_path / "best" / f"{check.step}.safetensors", arrays, check, "accuracy")
  heard = []

  def compare(ready, variables, part, size, devices):
    heard.append((part, float(variables["params"]["w"][0])))
    return {"accuracy": {"valid": 10, "test": 100}[part] + heard[-1][1]}

  def report(ready, variables, workdir, size, devices):
    found = compare(ready, variables, ready.test, size, devices)
    (workdir / "report.json").write_text(json.dumps(found))
    return Report(dict(found), "| table |", found)

  ready = SimpleNamespace(
    cfg=dataclasses.replace(SupervisedConfig(), select=SelectConfig("accuracy", 0, 2)),
    method=SimpleNamespace(report=report, compare=compare),
    held_out="valid" if validated else "test",
    test="test",
  )
  tree = {"params": {"w": np.zeros(2, np.float32)}, "model_state": {}}
  mesh = make_mesh(devices=jax.devices()[:1])
  _report(ready, mesh, tree, SimpleNamespace(best=BEST), {"steps": 4}, tmp_path)
  want = [("test", 2.0), ("test", 3.0), *((("valid", 2.0), ("valid", 3.0)) if validated else ())]
  assert sorted(heard) == want
  scores = json.loads((tmp_path / "selection.json").read_text())["scores"]
  assert scores == {part: FOUND[part] for part in FOUND if validated or part == "test"}
  told = json.loads((tmp_path / "report.json").read_text())
  assert told == {"accuracy": 102.0, "averaged_steps": [3, 1], "best_accuracy": 103.0}
