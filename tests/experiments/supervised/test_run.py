"""Whole supervised runs on two classes of short tones."""

import contextlib
import csv
import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from experiments import inspect_dymn, score
from experiments.configs.distill import ABLATIONS
from experiments.configs.distill import EXPERIMENTS as DISTILL
from experiments.configs.finetune import EXPERIMENTS as FINETUNE
from experiments.configs.finetune import adam, labelled_data
from experiments.configs.supervised import EpochLoopConfig, SupervisedConfig
from experiments.inspection.pictures import draw_relus, mapping_density
from experiments.supervised import run as module
from experiments.supervised.prepare import prepare
from experiments.supervised.recipe import NO_AUGMENT, AugmentConfig, DistilConfig
from experiments.supervised.run import run
from experiments.teaching.store import LogitStore
from experiments.training.epoch_factor import EpochFactor
from experiments.training.errors import UsageError
from experiments.training.metrics import read_metrics
from experiments.training.selection import SelectConfig, mean_state, read_state
from experiments.write_logits import WriteLogitsConfig
from experiments.write_logits import main as write_logits
from mobile_jax import config, load_model, named, read_model
from mobile_jax.config import DyMNConfig, MNConfig
from mobile_jax.network import init_variables, shapes
from mobile_jax.weights.load import has_names, write_folder, write_model
from pipelines import batches
from pipelines.kaldi_mel import KaldiMelConfig
from pipelines.ledger import Ledger
from tests.experiments.supervised.small_runs import compiled_once, two_tones
from tests.pipelines.conftest import index_cache, tone  # noqa: F401

replace = dataclasses.replace
MODEL = MNConfig(width=0.1, mel=KaldiMelConfig(mel_bins=32)).with_compute(kernels="xla")
TINY = SupervisedConfig(
  model=MODEL,
  data=replace(labelled_data(0.2, "single"), cache="memory"),
  augment=AugmentConfig(roll=100, wave_mixup=0.0),
  optim=adam(3e-3),
  schedule=EpochFactor(warmup=1, ramp_start=2, ramp_length=2, last=0.1),
  loop=EpochLoopConfig(epochs=3, batch_size=4, log_every=1, keep=9),
)


@pytest.fixture(scope="module", autouse=True)
def _compiled_once():
  """Alike runs compile once, and networks have two blocks, one with SE and a stride."""
  with compiled_once() as patch:
    patch.setattr(config, "_TABLE", tuple(config._TABLE[i] for i in (0, 3)))
    yield


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
  return two_tones(tmp_path_factory.mktemp("audio"))


def configured(audio, workdir, **changes):
  data = replace(TINY.data, source=(f"folder={audio}",))
  return replace(TINY, data=data, workdir=str(workdir), **changes)


def rows(workdir, part="train"):
  drop = ("clips_per_second", "idle_share")
  found = [r for r in read_metrics(workdir / "metrics.jsonl") if r["part"] == part]
  return [{k: v for k, v in row.items() if k not in drop} for row in found]


def exported(workdir):
  from safetensors.numpy import load_file

  return load_file(workdir / "export" / "model.safetensors")


@pytest.fixture(scope="module")
def finished(audio, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  assert run(configured(audio, workdir)) == 0
  return workdir


def test_a_run_leaves_the_network_its_scores_and_pictures(finished, audio):
  found = rows(finished)
  assert [row["step"] for row in found] == list(range(1, 9))  # three epochs of ten clips
  # Warm-up, peak, and the first step down: epochs begin at the steps 0, 3 and 5.
  factor = EpochFactor(warmup=1, ramp_start=2, ramp_length=2, last=0.1)
  want = [3e-3 * factor(epoch) for epoch in (0, 0, 0, 1, 1, 2, 2, 2)]
  np.testing.assert_allclose([row["lr"] for row in found], want, rtol=1e-6)
  held_out = rows(finished, "validation")
  assert {"loss", "accuracy", "class_accuracy", "log_loss"} <= set(held_out[-1])
  report = json.loads((finished / "report.json").read_text())
  assert (report["clips"], report["init"]) == (4, "random")
  assert report["accuracy"] == pytest.approx(held_out[-1]["accuracy"])
  assert report["log_loss"] == pytest.approx(held_out[-1]["loss"], rel=1e-4)
  assert "| accuracy" in (finished / "report.md").read_text()
  classes = list(csv.DictReader((finished / "classes.csv").open()))
  assert {row["class"] for row in classes} == {"high", "low"}
  for picture in ("loss.png", "confusion.png"):
    assert (finished / picture).read_bytes().startswith(b"\x89PNG")
  tag, variables = load_model(finished / "export" / "model.safetensors")
  assert read_model(finished / "export" / "model.safetensors")[0].objective == "classes"
  wave, _ = soundfile.read(audio / "test" / "low" / "0.wav", dtype="float32")
  assert tag(variables, jnp.asarray(wave)[None, :6_400])[0].shape == (1, 2)


def stopping_at(at, original):
  """The function of batches, with a SIGTERM before the batch of step `at`."""

  def batches(*args, **how):
    inner = original(*args, **how)
    step = how["start_step"]

    class Iterator:
      wait_seconds = 0.0

      def __enter__(self):
        return self

      def __exit__(self, *exception):
        inner.close()

      def __next__(self):
        nonlocal step
        if step == at:
          os.kill(os.getpid(), signal.SIGTERM)
        step += 1
        return next(inner)

    return Iterator()

  return batches


def test_a_stopped_run_goes_on_to_the_same_bits(finished, audio, tmp_path, monkeypatch):
  cfg = configured(audio, tmp_path / "stopped")
  with monkeypatch.context() as patch:
    patch.setattr(module, "batches", stopping_at(4, module.batches))
    assert run(cfg) == 128 + signal.SIGTERM
  assert run(cfg) == 0
  assert rows(tmp_path / "stopped") == rows(finished)
  whole, resumed = exported(finished), exported(tmp_path / "stopped")
  assert all(whole[name].tobytes() == resumed[name].tobytes() for name in whole)


@pytest.mark.slow
def test_the_mean_of_the_best_states_is_the_same_after_a_stop(audio, tmp_path, monkeypatch, capsys):
  """Classes drawn equally often, a validation every step; the run ends when nothing gets better."""
  runs = {}
  for name in ("whole", "stopped"):
    cfg = configured(audio, tmp_path / name, select=SelectConfig("accuracy", 3, 2))
    cfg = replace(cfg, data=replace(cfg.data, order="balanced"))
    cfg = replace(cfg, loop=replace(cfg.loop, validate_every=0.4, save_every=1, keep=1))
    if name == "stopped":
      with monkeypatch.context() as patch:
        patch.setattr(module, "batches", stopping_at(2, module.batches))
        assert run(cfg) == 128 + signal.SIGTERM
    assert run(cfg) == 0
    runs[name] = tmp_path / name
  whole, stopped = (exported(workdir) for workdir in runs.values())
  assert all(whole[name].tobytes() == stopped[name].tobytes() for name in whole)
  chosen = [json.loads((workdir / "selection.json").read_text()) for workdir in runs.values()]
  assert chosen[0] == chosen[1]
  record, report = chosen[0], json.loads((runs["whole"] / "report.json").read_text())
  held_out = {row["step"]: row["accuracy"] for row in rows(runs["whole"], "validation")}
  steps = sorted(held_out, key=lambda step: (-held_out[step], step))[:2]
  assert report["averaged_steps"] == [check["step"] for check in record["averaged"]] == steps
  assert record["ended_at"] == max(held_out)
  assert record["scores"]["test"]["mean"]["accuracy"] == report["accuracy"]
  assert report["best_accuracy"] == pytest.approx(held_out[steps[0]])
  states = [read_state(runs["whole"] / "best", step) for step in steps]
  mean = mean_state(states)
  np.testing.assert_array_equal(whole["classifier.5.bias"], mean["params/head/logits/bias"])
  told = f"mean of steps {', '.join(map(str, steps))}"
  assert told in (runs["whole"] / "selection.md").read_text()
  assert told in capsys.readouterr().err
  damaged = runs["whole"] / "best" / f"{steps[0]}.safetensors"
  damaged.write_bytes(damaged.read_bytes()[:-3])
  cfg = replace(cfg, workdir=str(runs["whole"]))
  assert run(cfg) == 0
  assert "left out of the mean" in capsys.readouterr().err
  assert json.loads((runs["whole"] / "report.json").read_text())["averaged_steps"] == steps[1:]
  with pytest.raises(UsageError, match="--loop.validate_every 0.4 -> 0.8"):
    run(replace(cfg, loop=replace(cfg.loop, validate_every=0.8)))


@pytest.mark.slow
def test_weights_begin_a_run_and_all_but_a_fresh_head_is_frozen(finished, audio, tmp_path):
  """A network of two classes starts one of three: what is not the head stays to the bit."""
  folder = audio.parent / "three"
  for label in "abc":
    for part in ("train", "test"):
      path = folder / part / label / "x.wav"
      path.parent.mkdir(parents=True, exist_ok=True)
      soundfile.write(path, tone(ord(label), 0.25, 32_000), 32_000)
  optim = replace(adam(1e-2), layer_rates=("^head/=1", "=0"))
  init = str(finished / "export" / "model.safetensors")
  cfg = configured(folder, tmp_path / "more", init=init, optim=optim)
  assert run(replace(cfg, loop=replace(cfg.loop, epochs=1))) == 0
  before, after = exported(finished), exported(tmp_path / "more")
  parameters = [n for n in before if "running" not in n and "num_batches" not in n]
  changed = {n for n in parameters if before[n].tobytes() != after[n].tobytes()}
  assert {"classifier.5.weight", "classifier.5.bias"} <= changed
  assert all(name.startswith("classifier.") for name in changed)
  assert after["classifier.5.bias"].shape == (3,)


def test_batches_carry_the_teachers_logits_by_id(audio, tmp_path):
  store = LogitStore(tmp_path / "logits", {"classes": ["high", "low"], "models": ["m"]})
  known = [f"train/{('low', 'high')[n % 2]}/{n}.wav" for n in range(9)]
  store.add(known, np.arange(18, dtype=np.float32).reshape(9, 2))
  cfg = configured(audio, tmp_path, teacher=str(tmp_path / "logits"))
  ready = prepare(cfg, Ledger(log=False), 1)
  with batches(ready.train, batch_size=10, seed=0, steps=1) as steps:
    batch = next(steps)
  for name, logits, told in zip(batch["id"], batch["teacher"], batch["known"], strict=True):
    assert told == (name in known)
    row = known.index(name) if told else None
    np.testing.assert_array_equal(logits, [0, 0] if row is None else [2 * row, 2 * row + 1])
  assert batch["known"].sum() == 9


@pytest.mark.slow
def test_distillation_from_stored_logits(finished, audio, tmp_path, capsys):
  logits = tmp_path / "logits"
  teach = WriteLogitsConfig(
    models=(str(finished / "export" / "model.safetensors"),) * 2,
    out=str(logits),
    recordings=4,
    data=replace(labelled_data(0.2), source=(f"folder={audio}",)),
  )
  write_logits(teach)
  assert sorted(p.name for p in logits.iterdir()) == [
    *(f"ids-{i:05d}.npz" for i in range(3)),
    *(f"logits-{i:05d}.npy" for i in range(3)),
    "teacher.json",
  ]
  cfg = configured(audio, tmp_path / "student", teacher=str(logits), distil=DistilConfig(0.5))
  assert run(cfg, "distill") == 0
  found = rows(tmp_path / "student")
  for row in found:
    assert row["loss"] == pytest.approx(0.5 * (row["label_loss"] + row["teacher_loss"]), rel=1e-5)
  assert "10 recordings" in capsys.readouterr().err


@pytest.mark.slow
def test_scores_of_what_was_trained(finished, audio, tmp_path, capsys):
  """By clips as the run's own report, and at full length; clips of one length are the same."""
  model = str(finished / "export" / "model.safetensors")
  data = replace(labelled_data(0.25, "single"), source=(f"folder={audio}",))
  score.main(score.ScoreConfig(models=(model,), out=str(tmp_path / "clips"), data=data))
  score.main(score.ScoreConfig(models=(model,), out=str(tmp_path), whole=True, grid=0.0, data=data))
  capsys.readouterr()
  clips, whole = (
    json.loads((folder / "scores.json").read_text())["model.safetensors"]
    for folder in (tmp_path / "clips", tmp_path)
  )
  assert clips["log_loss"] == pytest.approx(whole["log_loss"], rel=1e-5)
  assert (tmp_path / "confusion.png").is_file()
  with pytest.raises(UsageError, match="name a model: MODELS"):
    score.main(score.ScoreConfig(data=data))
  cfg = inspect_dymn.InspectConfig(weights=(model,), out=str(tmp_path), data=data)
  with pytest.raises(UsageError, match="is an MN, which has nothing dynamic"):
    inspect_dymn.main(cfg)


@pytest.mark.slow
def test_an_inspection_leaves_a_table_and_pictures(audio, tmp_path, capsys):
  shape = {"width": 0.1, "classes": 2, "mel": MODEL.mel, "relus": (), "attention": "none"}
  model = DyMNConfig(**shape, convs=("depthwise",)).with_compute(kernels="xla")
  variables = jax.jit(lambda key: init_variables(model, key))(jax.random.key(0))
  # An ablation that the released code has no names for.
  write_folder(tmp_path / "dymn", model, jax.device_get(variables))
  cfg = inspect_dymn.InspectConfig(
    weights=(str(tmp_path / "dymn"),),
    out=str(tmp_path / "found"),
    batch_size=3,
    data=replace(labelled_data(0.2, "single"), source=(f"folder={audio}",)),
  )
  assert not has_names(model)
  inspect_dymn.main(cfg)
  record = json.loads((tmp_path / "found" / "table.json").read_text())
  assert len(record) == 1 + 4  # Dy-Conv is all this network has
  assert "| Dy-Conv " in capsys.readouterr().out
  assert (tmp_path / "found" / "disturbed.png").is_file()
  lines = np.random.default_rng(0).normal(0, 0.5, (4, 8, 4)).astype(np.float32)
  drawn = draw_relus({"block 1": lines, "block 2": lines}, tmp_path / "dyrelu.png")
  assert drawn.stat().st_size > 2000
  identity = mapping_density(np.array([[1.0, 0.0, 0.0, -9.0]], np.float32))
  assert (identity.argmax(axis=0) == np.arange(161)).all()


def test_what_cannot_be_trained_is_told_before_it_begins(audio, tmp_path):
  cfg = configured(audio, tmp_path / "x")
  scene = named("cp_mobile_32")
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes(scene))
  write_model(tmp_path / "scene.safetensors", scene, zeros)
  for changed, match in (
    (replace(cfg, init=str(tmp_path / "scene.safetensors")), "is of the family CPMobile"),
    (replace(cfg, data=replace(cfg.data, source=("unset",))), "--data.source: name one labelled"),
    (replace(cfg, workdir=""), "--workdir: name the folder"),
    (replace(cfg, data=replace(cfg.data, sample_rate=16_000)), "the model hears 32000 Hz"),
    (replace(cfg, data=replace(cfg.data, crop_seconds=0.01)), "needs at least 0.016 s"),
    (replace(cfg, teacher=str(audio / "x")), "no folder of stored logits"),
    (replace(cfg, teacher=str(audio / "x"), augment=AugmentConfig()), "set --augment.wave_mixup 0"),
    (replace(cfg, optim=replace(cfg.optim, layer_rates=("^nothing=0",))), "fits no parameter"),
    (replace(cfg, augment=replace(cfg.augment, response_p=0.5)), "--augment.responses: name the"),
    (
      replace(cfg, augment=replace(cfg.augment, response_p=0.5, responses=str(audio))),
      "does not say which device recorded a clip; use all_devices",
    ),
    (replace(cfg, loop=replace(cfg.loop, batch_size=11), dry_run=True), "is not divisible by"),
    (
      replace(cfg, select=SelectConfig(average=2), loop=replace(cfg.loop, validate_every=0)),
      "--select: goes by validations; set --loop.validate_every",
    ),
    (
      replace(cfg, select=SelectConfig("mAP", patience=1)),
      "--select.metric mAP: validations of .* have loss, accuracy, class_accuracy, log_loss;",
    ),
    (replace(cfg, augment=replace(cfg.augment, freq_mask=3)), "this network has --model.mel.freq"),
    (
      replace(cfg, teacher=str(audio / "x"), augment=replace(NO_AUGMENT, pairs="wave")),
      "stored logits are of single clips; set --augment.pairs off",
    ),
  ):
    with contextlib.suppress(SystemExit), pytest.raises(ValueError, match=match) as error:
      run(changed)
    assert "\n" not in str(error.value)


def test_a_dry_run_shows_the_plan_and_writes_nothing(audio, tmp_path, capsys):
  cfg = configured(audio, tmp_path / "none", dry_run=True)
  cfg = replace(cfg, loop=replace(cfg.loop, batch_size=8))
  cfg = replace(cfg, optim=replace(cfg.optim, layer_rates=("^head/=1", "=0")))
  assert run(cfg) == 0
  told = capsys.readouterr().out
  assert "3 epochs are 4 steps of 8 clips" in told
  assert "parameters are frozen" in told
  assert not (tmp_path / "none").exists()


def test_every_recipe_is_what_the_papers_name():
  assert {"esc50", "openmic", "fsd50k", "dcase20", "esc50_dymn", "own"} <= set(FINETUNE)
  sizes = ("mn01", "mn02", "mn04", "mn05", "mn10", "mn20", "mn30", "mn40")
  for size in (*sizes, "dymn04", "dymn10", "dymn20"):
    assert f"audioset_kd_{size}" in DISTILL
  per_table = {}
  for name, cell in ABLATIONS.items():
    per_table.setdefault(cell.table, []).append(cell)
    assert name.startswith(cell.table.lower() + "_")
    assert DISTILL[f"ablation_{name}"].model == cell.model
  counts = {table: len(cells) for table, cells in per_table.items()}
  assert counts == {
    "II": 9,
    "III": 4,
    "IV": 4,
    "V": 7,
    "VI": 2,
    "VII": 3,
    "VIII": 4,
    "IX": 3,
    "X": 3,
    "XI": 9,
  }
  for cells in per_table.values():
    settings = [(cell.model, cell.temperature) for cell in cells]
    # The default stands once in each column of table XI.
    repeats = 2 if cells[0].table == "XI" else 0
    assert len(set(settings)) == len(settings) - repeats
  with pytest.raises(UsageError, match="--loop.epochs 0"):
    EpochLoopConfig(epochs=0)
