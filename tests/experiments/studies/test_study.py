"""Studies as commands: every cell is one that its program accepts."""

import dataclasses
import shlex

import pytest

from experiments import distill, evaluate, finetune, study, transfer, write_logits
from experiments.configs import scenes as scene_configs
from experiments.configs.finetune import EXPERIMENTS as TUNE
from experiments.studies import scenes, weights
from experiments.studies import study as studies
from experiments.studies.config import StudyConfig
from experiments.studies.hear import WIDTHS
from experiments.training import cli
from experiments.training.errors import RunError, UsageError
from mobile_jax.config import SIZES, DyMNConfig
from pipelines.errors import DataError
from tests.experiments.evaluation.hear.small import write_folder

DISTIL = distill.EXPERIMENTS
REGISTRIES = {
  "finetune": ({**TUNE, **scene_configs.FINETUNE}, finetune),
  "distill": (DISTIL, distill),
  "transfer": (transfer.EXPERIMENTS, transfer),
  "evaluate": ({"knn": evaluate.EvaluateConfig()}, evaluate),
  "write_logits": ({"default": write_logits.WriteLogitsConfig()}, write_logits),
}

HEAR = ("hear_features", "hear_widths")
# Of teachers of scenes: teachers, then logits and students.
CELLS = {
  "fine_tuning": 4,
  "distillation": 2 + 2 * 2,
  "teacher_size": 11 * (2 + 2 + 2),
  "device_methods": 4 * 3 * (2 + 2 + 2),
  "three_teachers": 5 * (2 + 1 + 2),
  "teacher_ensembles": 3 * 3 * 2 + 7 * 3 * (1 + 2),
  "transfer": 3 * 2,
  "hear_features": 11,
  "hear_widths": 7,
}


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
  monkeypatch.setattr(weights, "read_model", lambda path: (SIZES[path], {}))


def config(name, tmp_path, **changes):
  hears = name in HEAR
  if name == "hear_widths":
    folder = tmp_path / "weights"
    folder.mkdir(exist_ok=True)
    for width in WIDTHS:
      (folder / f"{width}_as_mAP_400.pt").touch()
  given = {
    "data": "hear=tasks" if hears else "esc10=sounds",
    "init": str(tmp_path / "weights") if name == "hear_widths" else "mn04",
    "out": str(tmp_path),
    "responses": "mics",
  } | changes
  return dataclasses.replace(study.STUDIES[name], **given)


@pytest.mark.parametrize("name", study.STUDIES)
def test_every_command_is_understood(name, tmp_path, capsys):
  seeds = StudyConfig().seeds if name == "fine_tuning" else (0, 3)
  more = ("--hear.grid_points", "16") if name in HEAR else ("--loop.log_every", "7")
  cfg = config(name, tmp_path, seeds=seeds, commands=True, more=more)
  study.main(cfg)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == CELLS[name]
  # Seeds differ in a number: to understand hundreds of commands would take a minute.
  for line in [x for x in lines if name not in scenes.LAID_OUT or "--loop.seed 3" in x][:40]:
    understood(line)


@pytest.mark.parametrize("name", ["fine_tuning", "distillation"])
def test_weights_of_a_dymn_have_recipes_of_their_own(name, tmp_path, capsys):
  study.main(config(name, tmp_path, init="dymn04", commands=True))
  lines = capsys.readouterr().out.splitlines()
  tuned = [understood(line) for line in lines if "finetune" in line]
  assert all(isinstance(cfg.model, DyMNConfig) for cfg in tuned)


def understood(line):
  """The configuration of a command."""
  python, _, module, *flags = shlex.split(line)
  prog = module.removeprefix("experiments.")
  assert python == "python"
  registry, _ = REGISTRIES[prog]
  default = next(iter(registry)) if prog in ("evaluate", "write_logits") else None
  cfg = cli.parse(flags, registry, prog=prog, default=default)
  if prog in ("finetune", "distill", "transfer"):
    assert cfg.data.source == ("esc10=sounds",)
    assert "--loop.log_every" not in flags or cfg.loop.log_every == 7
  return cfg


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


def test_the_suite_of_hear_is_told_its_tasks_and_features(tmp_path):
  laid_out = study.LAID_OUT["hear_features"](config("hear_features", tmp_path))
  cfg = understood(next(cell.line for cell in laid_out.cells if cell.row == "M_B+L"))
  assert (cfg.suite, cfg.features, cfg.hear.tasks) == (("hear",), ("blocks", "mel"), "tasks")
  assert cfg.checkpoint == ("mn04",)
  records = [
    {"task": "esc50", "group": "general", "percent_of_best": 97.0},
    {"task": "own", "group": None, "percent_of_best": None},
  ]
  assert laid_out.cells[0].points(records) == {"esc50": {"all": 97.0, "general": 97.0}}


@pytest.mark.parametrize(
  ("name", "change", "match"),
  [
    ("hear_features", {"init": ""}, "--init is missing"),
    ("hear_features", {"data": "esc10=sounds"}, "--data hear=FOLDER"),
    ("hear_widths", {"init": "nowhere"}, "name a folder"),
  ],
)
def test_what_studies_of_hear_need(name, change, match, tmp_path):
  with pytest.raises(UsageError, match=match):
    study.main(config(name, tmp_path, **change))


def test_tasks_without_a_table_are_told_before_anything_runs(tmp_path, monkeypatch):
  parts, esc50 = [f"fold{i:02d}" for i in range(5)], {"task_name": "esc50"}
  write_folder(tmp_path / "own", ("train", "valid", "test"), {"split_mode": "trainvaltest"})
  write_folder(tmp_path / "all" / "own", parts[:3], {})
  write_folder(tmp_path / "all" / "esc50", parts, esc50)

  def run(cells, out):
    raise RunError("it runs")

  monkeypatch.setattr(studies, "run_cells", run)
  none = f"--data hear={tmp_path}/.*: holds none of the tasks of HEAR 2021's table; found own$"
  for data, more, error, match in (
    ("own", (), UsageError, none),
    ("all", ("--hear.only", "own"), UsageError, none),
    ("all", ("--hear.only", "esc"), UsageError, "--hear.only esc: not there; found: esc50, own"),
    ("none", (), DataError, "none"),
    ("all", (), RunError, "it runs"),
  ):
    cfg = config("hear_features", tmp_path, data=f"hear={tmp_path / data}", more=more)
    with pytest.raises(error, match=match):
      study.main(cfg)


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


def scene_study(tmp_path, name="device_methods", **changes):
  return scenes.LAID_OUT[name](config(name, tmp_path, **changes))


def parsed(cell):
  registry, _ = REGISTRIES[cell.prog]
  return cli.parse(cell.flags, registry, prog=cell.prog, default=next(iter(registry)))


def test_teachers_differ_in_the_method_alone(tmp_path):
  cells = {c.name: c for c in scene_study(tmp_path, teachers=("cp_mobile_32",), init="").cells}
  runs = {m: parsed(cells[f"teacher_cp_mobile_32_{m}_1"]) for m in scenes.METHODS}
  told = {m: (r.augment.response_p, r.augment.mixstyle) for m, r in runs.items()}
  assert told == {"dirfms": (0.4, 0.8), "dir": (0.4, 0), "fms": (0, 0.8), "none": (0, 0)}
  plain = {dataclasses.replace(r, workdir="", augment=runs["none"].augment) for r in runs.values()}
  assert len(plain) == 1
  assert parsed(cells["student_cp_mobile_32_none_1"]).augment.mixstyle == 0.4


def test_students_hear_their_own_teachers(tmp_path):
  """Of their seed, or all of them; logits name the weights that teachers leave."""
  cells = {c.name: c for c in scene_study(tmp_path).cells}
  one = cells["logits_cp_resnet_56_dir_2"]
  assert one.needs == ("teacher_cp_resnet_56_dir_2",)
  assert parsed(one).models == (
    str(tmp_path / "teacher_cp_resnet_56_dir_2" / "export" / "model.safetensors"),
  )
  student = cells["student_cp_resnet_56_dir_2"]
  assert student.needs == (one.name,)
  assert parsed(student).teacher == str(tmp_path / one.name)
  (many,) = [
    c
    for c in scene_study(tmp_path, "teacher_ensembles", teachers=("cp_resnet_56", "passt")).cells
    if c.name == "logits_cp_resnet_56+passt__dirfms+fms_of_0-1-2"
  ]
  assert len(parsed(many).models) == 12


def test_tables_share_their_cells(tmp_path):
  """A command of one table is the same command in the other, or it would be refused there. Of other
  seeds as well; and a cell's name is a folder's.
  """
  every = {}
  for name in scenes.LAID_OUT:
    for seeds in ((0, 1), (0, 1, 2)):
      for cell in scene_study(tmp_path, name, seeds=seeds).cells:
        assert every.setdefault(cell.name, cell.line) == cell.line
  many = scene_study(tmp_path, "teacher_ensembles", teachers=tuple(scenes.TEACHERS["teacher_size"]))
  assert max(len(cell.name) for cell in many.cells) < 250


@pytest.mark.parametrize("paper", [False, True])
def test_every_passt_begins_with_weights_and_all_have_the_same_settings(tmp_path, paper):
  for cell in scene_study(tmp_path, paper=paper).cells:
    if cell.prog == "write_logits":
      continue
    assert ("--init" in cell.flags) == cell.name.startswith("teacher_passt")
    recipe = cell.flags[cell.flags.index("--config") + 1]
    assert recipe.endswith("_paper") == paper


def test_what_scenes_need_is_named(tmp_path):
  for changes, match in (
    ({"init": ""}, "--init is missing: PaSST begins .* name --teachers without passt"),
    ({"recipes": "nope"}, "--recipes nope: there are none; choose tau22"),
    ({"recipes": "quick", "paper": True}, "--recipes quick --paper true: there are none"),
    ({"recipes": "quick"}, "--teachers passt: choose from cp_mobile_32"),
    ({"responses": ""}, "--responses is missing"),
    ({"methods": ("dirms",)}, "--methods dirms: choose from dirfms, dir, fms, none"),
    ({"teachers": ("cp_mobile_33",)}, "--teachers cp_mobile_33: choose from cp_mobile_32"),
  ):
    with pytest.raises(UsageError, match=match):
      scene_study(tmp_path, **changes)


def test_figures_of_teacher_and_student_stand_in_one_row(tmp_path):
  cells = scene_study(tmp_path, teachers=("cp_mobile_32",), init="", seeds=(0,)).cells
  rows = {c.name: c.row for c in cells}
  assert rows["teacher_cp_mobile_32_dir_0"] == rows["student_cp_mobile_32_dir_0"]
  report = {"accuracy": 0.5, "accuracy_seen": 0.6, "accuracy_unseen": 0.4, "set": "x"}
  (points,) = [c.points(report) for c in cells if c.name == "teacher_cp_mobile_32_dir_0"]
  assert points["seed 0"]["teacher_unseen_accuracy"] == 0.4
