"""A scaling study from end to end: what is finished stays, what was stopped goes on."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from dasheng_jax.config import DecoderConfig, EncoderConfig
from experiments import pretrain, scaling
from experiments.configs import scaling as studies
from experiments.configs.pretrain import EXPERIMENTS
from experiments.configs.scaling import ScalingConfig, Size
from experiments.scaling_study import held_out
from experiments.scaling_study.grid import trials
from experiments.studies import loop
from experiments.training import cli
from experiments.training.errors import UsageError
from pipelines.tasks import LabelledSet
from tests.experiments.tiny_pretrain import TINY, Watched, read_json, shared_programs, terminate

CFG = ScalingConfig(
  recipe="tiny",
  sizes=("thin",),
  shares=(0.4, 1.0),
  steps=(4,),
  source=("synthetic:10",),
  holdout=0.3,
  resamples=0,
  more=("--loop.save_every", "2", "--loop.validate_every", "0"),
)


@pytest.fixture(scope="module", autouse=True)
def _tiny():
  """A size that compiles in seconds; files that no test looks at are left out."""
  with shared_programs(), pytest.MonkeyPatch.context() as patch:
    patch.setitem(EXPERIMENTS, "tiny", TINY)
    size = Size(EncoderConfig(16, 1, 2), DecoderConfig(16, 1, 2))
    patch.setitem(studies.SIZES, "thin", size)
    patch.setattr(pretrain, "draw_pictures", lambda *_: ())
    patch.setattr(pretrain, "write_encoder_file", lambda *_: None)
    yield


@pytest.fixture
def started(monkeypatch):
  """Commands run in this process; the names of those that were."""
  names = []

  def run(cell):
    names.append(cell.name)
    cfg = cli.parse(cell.flags, EXPERIMENTS, prog="pretrain")
    return loop._Outcome(pretrain.main(cfg), 0)

  monkeypatch.setattr(loop, "_run", run)
  return names


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """(folder, points) of a study that was stopped in its second run and started again."""
  out = str(tmp_path_factory.mktemp("study"))
  cfg = dataclasses.replace(CFG, out=out)
  names = []

  def run(cell):
    names.append(cell.name)
    return loop._Outcome(pretrain.main(cli.parse(cell.flags, EXPERIMENTS, prog="pretrain")), 0)

  def stopping(cell):
    if names:
      watched = Watched(pretrain.batches, {3: terminate})
      with pytest.MonkeyPatch.context() as inner:
        inner.setattr(pretrain, "batches", watched)
        return run(cell)
    return run(cell)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "_run", stopping)
    with pytest.raises(SystemExit) as stop:
      scaling.main(cfg)
    first = list(names)
    names.clear()
    patch.setattr(loop, "_run", run)
    scaling.main(cfg)
  return cfg, stop.value.code, first, names


@pytest.mark.slow
def test_a_stopped_study_goes_on_where_it_was(finished):
  cfg, code, first, second = finished
  label = "{}_share{}_steps4_seed0".format
  order = [label("thin", share) for share in (0.4, 1)]
  assert code == 128 + 15
  assert first == order
  assert second == order[1:]
  resumed = [read_json(Path(cfg.out) / name / "summary.json")["resumed_at"] for name in order]
  assert resumed[0] == 0 < resumed[1]


@pytest.mark.slow
def test_a_finished_study_runs_nothing_and_says_the_same(finished, started, monkeypatch, capsys):
  cfg = finished[0]
  out = Path(cfg.out)
  before = (out / "scaling.md").read_text()
  monkeypatch.setattr(held_out, "held_out_loss", None)  # every loss is known
  for again in (cfg, dataclasses.replace(cfg, collect=True)):
    scaling.main(again)
    assert (out / "scaling.md").read_text() == before == capsys.readouterr().out
  assert not started


@pytest.mark.slow
def test_the_loss_is_the_same_clips_and_masks_for_all(finished):
  """Of the same seed as the runs', that is what the runs' own validation says."""
  cfg = finished[0]
  content = json.loads((Path(cfg.out) / "scaling.json").read_text())
  hours = sorted({p["hours"] for p in content["runs"]})
  assert hours[0] / hours[1] == pytest.approx(0.4, abs=0.15)
  for point in content["runs"]:
    summary = read_json(Path(cfg.out) / point["name"] / "summary.json")
    assert point["loss"] == pytest.approx(summary["validation_loss"], rel=1e-5)
  assert len({p["loss"] for p in content["runs"]}) == 2


@pytest.mark.slow
def test_what_is_missing_is_named_and_what_is_there_collected(finished, started, capsys):
  cfg = dataclasses.replace(finished[0], steps=(4, 9), collect=True)
  scaling.main(cfg)
  said = capsys.readouterr()
  assert "2 of 4 runs are not finished: thin_share0.4_steps9_seed0" in said.err
  assert said.out.count("\n| ") == 2
  with pytest.raises(UsageError, match="none of the 2 runs is finished there"):
    scaling.main(dataclasses.replace(cfg, steps=(9,)))
  assert not started


@pytest.mark.slow
def test_another_run_in_the_folder_is_refused(finished, started):
  cfg = dataclasses.replace(finished[0], collect=True, holdout=0.2)
  with pytest.raises(UsageError, match=r"was made with data.holdout 0.3, and 0.2 is asked for"):
    scaling.main(cfg)


@pytest.mark.slow
def test_encoders_are_also_judged_by_labelled_clips(finished):
  waves = np.random.default_rng(0).normal(0, 0.1, (12, 8000)).astype(np.float32)
  waves[::2] *= np.sin(np.arange(8000) / 20).astype(np.float32)
  task = LabelledSet(
    *("tones", [str(i) for i in range(12)], np.arange(12) % 2, ["a", "b", "c"] * 4, ["0", "1"]),
    lambda i, rate=16_000: waves[i],
  )
  trial = trials(finished[0])[0]
  judge = held_out.Judge([task], 3)
  plain, scored = held_out.Judge([], 3)(trial), judge(trial)
  assert scored.loss == plain.loss
  assert plain.accuracy == {}
  assert 0 <= scored.accuracy["tones"] <= 1
  assert judge(trial) == scored
  assert read_json(trial.folder / held_out.FILE)["settings"]["tasks"] == {"tones": 12}


def test_commands_for_a_cluster_start_nothing(tmp_path, started, capsys):
  cfg = dataclasses.replace(CFG, out=str(tmp_path / "none"), launch="cluster")
  scaling.main(cfg)
  lines = [x for x in capsys.readouterr().out.splitlines() if not x.startswith("#")]
  assert len(lines) == 2
  assert all(line.startswith("python -m experiments.pretrain --config tiny ") for line in lines)
  assert not started
  assert not (tmp_path / "none").exists()
