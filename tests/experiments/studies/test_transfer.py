"""The study of transfer: its table of tasks, its cells, and what its rows say."""

import dataclasses
import json
import re

import pytest

from experiments import study, transfer
from experiments.configs.transfer import EXPERIMENTS, MODES, MORE, NETWORKS, TASKS
from experiments.evaluation.scores import MEASURES
from experiments.studies import study as studies
from experiments.studies import weights
from experiments.training import cli
from experiments.training.errors import UsageError
from mobile_jax.config import SIZES
from mobile_jax.decision_config import DECISION_SIZES
from pipelines.sets import SETS

replace = dataclasses.replace
# What the reference text calls the sets.
SHORT = {
  "MSoS": "msos",
  "NS": "nsynth",
  "US8K": "urbansound8k",
  "RAV": "ravdess",
  "ESC-50": "esc50",
  "FSD18": "fsdkaggle2018",
  "FSD19-C": "fsdkaggle2019_curated",
  "FSD19-N": "fsdkaggle2019_noisy",
  "FSD50k": "fsd50k",
  "Vox1": "voxceleb1",
  "VL (error)": "voxlingua107",
  "FSC": "fluent_speech_commands",
  "SPCV1": "speech_commands_v1",
  "SPCV2": "speech_commands_v2",
}


def test_every_task_is_a_set_with_a_metric():
  assert len(TASKS) == 14
  for name, task in {**TASKS, **MORE}.items():
    assert name in SETS
    assert task.metric in {"accuracy", "mAP", *MEASURES}
    cfg = EXPERIMENTS[name]
    assert cfg.select.metric == task.metric
    assert (cfg.select.patience, cfg.select.average, cfg.loop.batch_size) == (15, 4, 64)
    assert {cfg.schedule(epoch) for epoch in (0, 1, 149)} == {1.0}
    assert cfg.whole


def test_published_results_are_those_of_the_reference(shared):
  text = (shared / "reference" / "tagging.md").read_text()
  rows = re.findall(r"^\| (.+?) \| ([\d./ ]+) \| ([\d./ ]+) \|$", text, re.MULTILINE)
  told = {
    SHORT[name]: tuple(tuple(float(x) for x in cell.split("/")) for cell in cells)
    for name, *cells in rows
    if name in SHORT
  }
  assert told == {name: tuple(task.published) for name, task in TASKS.items()}
  cut = {name: task.seconds for name, task in TASKS.items() if task.cut}
  assert {name for name, seconds in cut.items() if seconds == 10} == {"fsdkaggle2018", "fsd50k"}
  assert {name for name, seconds in cut.items() if seconds == 4} == {
    *("voxceleb1", "fsdkaggle2019_curated", "fsdkaggle2019_noisy"),
    *("fluent_speech_commands", "voxlingua107"),
  }


def test_a_cell_is_a_run_of_its_mode(monkeypatch):
  monkeypatch.setattr(weights, "read_model", lambda path: (SIZES["mn04"], {}))
  cfg = replace(EXPERIMENTS["esc50"], init="mn04.pt")
  scratch, frozen, tuned = (transfer.resolved(replace(cfg, mode=mode)) for mode in MODES)
  assert (scratch.init, frozen.init, tuned.init) == ("", "mn04.pt", "mn04.pt")
  assert (scratch.frozen, frozen.frozen, tuned.frozen) == (False, True, False)
  assert scratch.model == SIZES["mn04"]
  assert frozen.data.sample_rate == 32_000
  plain = transfer.resolved(replace(EXPERIMENTS["esc50"], mode="scratch"))
  assert plain.model == DECISION_SIZES["mobilenet_v2"]
  assert plain.data.sample_rate == 16_000
  for student, size in (("mn04_as", "mn04"), ("dymn10", "dymn10")):
    named = replace(EXPERIMENTS["esc50"], mode="scratch", student=student)
    assert transfer.resolved(named).model == SIZES[size]
  with pytest.raises(UsageError, match="--mode frozen: name the weights"):
    transfer.resolved(replace(EXPERIMENTS["esc50"], mode="frozen"))
  with pytest.raises(UsageError, match="--frozen: say --mode frozen"):
    transfer.resolved(replace(cfg, frozen=True))


def test_what_model_flags_say_of_a_named_network_is_done_or_refused(monkeypatch):
  monkeypatch.setattr(weights, "read_model", lambda path: (SIZES["mn04"], {}))

  def resolved(*flags):
    told = ("--config", "esc50", *flags)
    return transfer.resolved(cli.parse(told, EXPERIMENTS, prog="transfer")).model

  training = ("--model.dropout", "0.45", "--model.compute.dtype", "bfloat16")
  found = resolved("--init", "mn04.pt", *training)
  assert found == replace(SIZES["mn04"], dropout=0.45).with_compute(dtype="bfloat16")
  scratch, student = ("--mode", "scratch"), ("--student", "efficientnet_b0")
  named = resolved(*scratch, *student, "--model.dropout", "0.45")
  assert named == replace(DECISION_SIZES["efficientnet_b0"], dropout=0.45)
  assert resolved(*scratch, "--model.width", "0.5").width == 0.5
  init = ("--init", "mn04.pt")
  for flags, match in (
    ((*init, "--model.width", "0.5"), "--model.width: the network is that of --init mn04.pt, of"),
    ((*init, "--model.mel.mel_bins", "80"), "--model.mel.mel_bins: .* dropout and compute alone"),
    ((*scratch, *student, "--model.width", "0.5"), "is that of --student efficientnet_b0"),
    ((*scratch, "--student", "passt_as", "--model.dropout", "0.5"), "changes compute alone"),
  ):
    with pytest.raises(UsageError, match=match):
      resolved(*flags)
  other = replace(EXPERIMENTS["esc50"], init="mn04.pt", model=SIZES["mn10"])
  with pytest.raises(UsageError, match="--model.class: the network is that of --init"):
    transfer.resolved(other)


def config(tmp_path, **changes):
  given = {"data": "esc50=sounds", "sets": ("voxlingua107=voices",), "out": str(tmp_path)}
  return replace(study.STUDIES["transfer"], **(given | {"init": "mn04.pt"} | changes))


def test_the_table_has_means_over_seeds_and_folds_beside_the_paper(tmp_path, monkeypatch):
  laid_out = study.LAID_OUT["transfer"](config(tmp_path, modes=("frozen", "scratch")))
  assert [c.name for c in laid_out.cells] == [
    *(f"esc50_frozen_{seed}" for seed in range(4)),
    *(f"esc50_scratch_{seed}" for seed in range(4)),
    "voxlingua107_frozen_0",  # one trial
    "voxlingua107_scratch_0",
  ]
  for number, cell in enumerate(laid_out.cells):
    cell.result.parent.mkdir()
    folds = {"1": {"accuracy": 0.1 * number, "clips": 3}, "2": {"accuracy": 0.2, "clips": 3}}
    one = {"error_rate": 0.25, "accuracy": 0.75}
    cell.result.write_text(json.dumps({"folds": folds} if "esc50" in cell.name else one))
  monkeypatch.setattr(studies, "run_cells", lambda cells, out: dict.fromkeys(_names(cells), 60.0))
  monkeypatch.setattr(studies, "draw_study", lambda *given: None)
  table = studies.run_study(laid_out, tmp_path)
  lines = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in table.splitlines()}
  header, row = lines[""], lines["esc50, accuracy, frozen"]
  assert [x.strip() for x in header[1:3]] == [f"published, {name}" for name in NETWORKS]
  # Seeds 0 to 3 reach 0, 10, 20 and 30 % on fold 1, and 20 % on fold 2.
  assert row[0].strip().startswith("17.5 ±")
  assert [x.strip() for x in row[1:3]] == ["92.20", "92.10"]
  assert row[5].strip() == "8"
  assert lines["voxlingua107, error rate, scratch"][0].strip() == "25.0"


def _names(cells):
  return [cell.name for cell in cells]


def test_what_does_not_fit_is_named(tmp_path):
  for changes, match in (
    ({"sets": ("tau22=x",)}, "--sets tau22=x: no task is of this set; choose from msos"),
    ({"sets": ("esc50=x",)}, "esc50 is named twice"),
    ({"modes": ()}, "--modes: name one or more of scratch, frozen, finetune"),
    ({"fold": "1"}, "--fold: this study leaves out every fold"),
    ({"init": ""}, "--init is missing"),
  ):
    with pytest.raises(UsageError, match=match):
      study.LAID_OUT["transfer"](config(tmp_path, **changes))
  scratch = config(tmp_path, init="", modes=("scratch",), student="mobilenet_v2")
  assert len(study.LAID_OUT["transfer"](scratch).cells) == 5
