"""The grid: nested amounts, one command a run that says all of it, mistakes in one line."""

import dataclasses
import shlex

import pytest

from experiments.configs.pretrain import EXPERIMENTS
from experiments.configs.scaling import SIZES, STUDIES, ScalingConfig
from experiments.planning.topology import parse_topology
from experiments.scaling_study.grid import hours_of_training, trials
from experiments.scaling_study.launch import hours, launch_lines, parameters, run_flops
from experiments.training import cli
from experiments.training.errors import UsageError
from pipelines import open_dataset

CFG = ScalingConfig(
  sizes=("w48", "dasheng_1_2b"),
  shares=(1.0, 0.25),
  steps=(40, 80),
  seeds=(0, 7),
  source=("synthetic:40",),
  out="study",
)


def test_every_run_is_a_command_that_pretrain_understands():
  found = trials(dataclasses.replace(CFG, more=("--loop.log_every", "9")))
  assert len({t.cell.name for t in found}) == len(found) == 16
  for trial in found:
    python, _, module, *flags = shlex.split(trial.cell.line)
    assert (python, module) == ("python", "experiments.pretrain")
    run = cli.parse(flags, EXPERIMENTS, prog="pretrain")
    assert run == trial.config
    size, base = SIZES[trial.size], EXPERIMENTS[CFG.recipe]
    assert run.model == dataclasses.replace(
      base.model,
      encoder=dataclasses.replace(size.encoder, positions=base.model.encoder.positions),
      decoder=size.decoder,
      compute=dataclasses.replace(base.model.compute, remat=size.remat or "none"),
    )
    assert run.optim.peak_lr == pytest.approx(size.peak_lr or base.optim.peak_lr)
    assert run.optim.warmup_steps == CFG.warmup * trial.steps
    assert (run.loop.steps, run.loop.seed, run.loop.log_every) == (trial.steps, trial.seed, 9)
    assert (run.data.share, run.data.share_seed) == (trial.share, trial.seed)
    assert run.data.holdout == CFG.holdout
    assert str(trial.cell.result.parent) == run.workdir == f"study/{trial.cell.name}"


def test_all_runs_leave_out_the_same_and_smaller_amounts_are_part_of_larger():
  found = [t for t in trials(CFG) if t.size == "w48" and t.steps == 40]
  held = {tuple(open_dataset(t.config.data, "holdout", t.seed).ids) for t in found}
  assert len(held) == 1
  heard = {(t.seed, t.share): set(open_dataset(t.config.data, "train").ids) for t in found}
  for seed in CFG.seeds:
    assert heard[seed, 0.25] < heard[seed, 1.0]
  assert heard[0, 0.25] != heard[7, 0.25]
  assert not set().union(*heard.values()) & set(*held)


def test_hours_are_shares_of_what_is_there():
  whole = hours_of_training(trials(CFG)[-1].config)
  found = trials(dataclasses.replace(CFG, hours=(whole, whole / 4), seeds=(0,), sizes=("w48",)))
  assert [t.share for t in found] == pytest.approx([0.25, 1.0, 0.25, 1.0], rel=1e-5)
  assert hours_of_training(found[0].config) == pytest.approx(whole / 4, rel=0.1)


def test_lines_for_a_cluster_say_what_a_run_costs():
  cfg = dataclasses.replace(STUDIES["dasheng"], source=("shards",), out="study")
  cfg = dataclasses.replace(cfg, topology="v5e:16x16", shares=(1.0,))
  found = trials(cfg)
  sizes = {t.size: sum(parameters(t).values()) for t in found}
  assert sizes["dasheng_1_2b"] == pytest.approx(1.19e9, rel=0.01)
  last = found[-1]
  clips = last.steps * last.config.loop.batch_size
  assert run_flops(last) == pytest.approx(515e9 * clips, rel=0.01)  # docs/scaling.md
  # The same page: 384 M clips on such a slice at 100 % of its peak take 1.1 hours.
  topology = parse_topology(cfg.topology)
  assert hours(515e9 * 384e6, topology, 1.0) == pytest.approx(1.09, rel=0.01)
  text = launch_lines(cfg, found)
  commands = [line for line in text.splitlines() if not line.startswith("#")]
  assert commands == [t.cell.line for t in found]
  assert "1,192 M parameters" in text
  assert "on v5e:16x16 2.72 h at 40 % of its peak, 1.09 h at the peak itself" in text
  plain = launch_lines(dataclasses.replace(cfg, topology=""), found)
  assert " h at " not in plain
  assert "1.98e+20 operations" in plain


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"recipe": "our"}, "--recipe our: choose one of"),
    ({"sizes": ("w49",)}, "--sizes w49: choose from w32, w64"),
    ({"sizes": ("w48", "w48")}, "--sizes: name one or more, each once"),
    ({"steps": ()}, "--steps: name one or more"),
    ({"source": ("unset",)}, "--source: name folders"),
    ({"out": ""}, "--out: name the folder"),
    ({"holdout": 0.0}, "--holdout 0: it must lie between 0 and 1"),
    ({"warmup": 2.0}, "--warmup 2: it is a share of the steps"),
    ({"hours": (99.0,)}, "--hours 99: there are 0.1056 hours of training audio"),
    ({"more": ("--loop.setps", "3")}, "--loop.setps: unknown; did you mean --loop.steps"),
    ({"shares": (0.5, 1.5)}, r"data.share is 1.5"),
  ],
)
def test_mistakes_are_told_before_anything_runs(changes, message):
  with pytest.raises(UsageError, match=message):
    trials(dataclasses.replace(CFG, **changes))
