"""Studies as commands: every cell is one that its program accepts."""

import dataclasses
import shlex

import pytest

from experiments import distill, evaluate, finetune, study, write_logits
from experiments.configs.distill import EXPERIMENTS as DISTIL
from experiments.configs.finetune import EXPERIMENTS as TUNE
from experiments.studies import weights
from experiments.studies.config import StudyConfig
from experiments.training import cli
from experiments.training.errors import UsageError
from mobile_jax.config import SIZES

REGISTRIES = {
  "finetune": (TUNE, finetune),
  "distill": (DISTIL, distill),
  "evaluate": ({"knn": evaluate.EvaluateConfig()}, evaluate),
  "write_logits": ({"default": write_logits.WriteLogitsConfig()}, write_logits),
}


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
  monkeypatch.setattr(weights, "read_model", lambda path: (SIZES[path], {}))


def config(name, tmp_path, **changes):
  given = {"data": "esc10=sounds", "init": "mn04", "out": str(tmp_path)} | changes
  return dataclasses.replace(study.STUDIES[name], **given)


@pytest.mark.parametrize("name", study.STUDIES)
@pytest.mark.parametrize("init", ["mn04", "dymn04"])
def test_every_command_is_understood(name, init, tmp_path, capsys):
  study.main(config(name, tmp_path, init=init, commands=True, more=("--loop.log_every", "7")))
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == {"fine_tuning": 4, "distillation": 2 + 2 * 3}[name]
  for line in lines:
    python, _, module, *flags = shlex.split(line)
    prog = module.removeprefix("experiments.")
    assert python == "python"
    registry, _ = REGISTRIES[prog]
    default = next(iter(registry)) if prog in ("evaluate", "write_logits") else None
    cfg = cli.parse(flags, registry, prog=prog, default=default)
    if prog in ("finetune", "distill"):
      assert cfg.loop.log_every == 7
      assert cfg.data.source == ("esc10=sounds",)


def test_students_differ_in_the_teacher_alone(tmp_path):
  laid_out = study.LAID_OUT["distillation"](config("distillation", tmp_path, seeds=(5,)))
  runs = {
    c.name: cli.parse(c.flags, DISTIL, prog="distill")
    for c in laid_out.cells
    if c.prog == "distill"
  }
  labels, distilled = runs["labels_5"], runs["distilled_5"]
  same = {"workdir": "", "teacher": "", "distil": labels.distil}
  assert dataclasses.replace(labels, **same) == dataclasses.replace(distilled, **same)
  assert labels.loop.seed == 5
  assert distilled.teacher
  assert labels.distil.label_weight == 0


@pytest.mark.parametrize("flag", ["data", "init", "out"])
def test_what_is_missing_is_named(flag, tmp_path):
  with pytest.raises(UsageError, match=f"--{flag}"):
    study.main(config("fine_tuning", tmp_path, **{flag: ""}))


def test_seeds_are_one_or_more(tmp_path):
  for seeds in ((), (1, 1)):
    with pytest.raises(UsageError, match="--seeds"):
      study.main(config("distillation", tmp_path, seeds=seeds))


def test_the_default_is_a_study():
  assert StudyConfig().study in study.LAID_OUT
