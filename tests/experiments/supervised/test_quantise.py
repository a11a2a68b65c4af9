"""Quantisation-aware runs of a small CP-Mobile on two classes of short tones."""

import dataclasses
import functools
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import quantise
from experiments.configs.quantise import EXPERIMENTS, QuantiseConfig
from experiments.supervised.quantised_task import folded_start, quantised_task
from experiments.supervised.recipe import NO_AUGMENT, DistilConfig, TemperatureConfig
from experiments.supervised.task import Recipe
from experiments.teaching.store import LogitStore
from experiments.training import config_io, loop
from experiments.training.epochs import Epochs
from experiments.training.errors import UsageError
from experiments.training.metrics import read_metrics
from mobile_jax.config import MNConfig
from mobile_jax.network import shapes
from mobile_jax.quantised import fold, read_integers
from mobile_jax.scene_config import CP_MOBILE_MEL, CPMobileConfig
from mobile_jax.weights.load import write_model
from tests.experiments.supervised.small_runs import compiled_once, two_tones
from tests.mobile_jax.fixtures import drawn, quick
from tests.pipelines.conftest import index_cache, tone  # noqa: F401

replace = dataclasses.replace
MEL = replace(CP_MOBILE_MEL, n_fft=1024, win_length=800, mel_bins=24)
MODEL = CPMobileConfig(
  classes=2, base_channels=8, multiplier=1.5, expansion=1.0, blocks_per_stage=(1, 1, 1),
  halved=(2,), halved_frequency=(), mel=MEL,
).with_compute(kernels="xla")  # fmt: skip
PLAIN = EXPERIMENTS["own"]
TINY = replace(
  PLAIN,
  model=MODEL,
  data=replace(PLAIN.data, crop_seconds=0.2, cache="memory"),
  loop=replace(PLAIN.loop, epochs=3, batch_size=4, log_every=1, validate_every=1, keep=9),
  frozen_epochs=1,
)


@pytest.fixture(scope="module", autouse=True)
def _compiled_once():
  """Alike runs compile once."""
  with compiled_once() as patch:
    patch.setattr(quantise, "quantised_task", functools.cache(quantised_task))
    yield


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
  return two_tones(tmp_path_factory.mktemp("audio"))


@pytest.fixture(scope="module")
def student(tmp_path_factory):
  """(file, variables) of the float network."""
  variables = drawn(shapes(MODEL), seed=4)
  path = tmp_path_factory.mktemp("weights") / "student.safetensors"
  write_model(path, MODEL, variables)
  return path, variables


def configured(audio, student, workdir, **changes):
  data = replace(TINY.data, source=(f"folder={audio}",))
  return replace(TINY, data=data, init=str(student[0]), workdir=str(workdir), **changes)


@pytest.fixture(scope="module")
def whole_run(audio, student, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  assert quantise.main(configured(audio, student, workdir)) == 0
  return workdir


@pytest.mark.slow
def test_a_run_leaves_integers_costs_and_scores(whole_run):
  record = json.loads((whole_run / "report.json").read_text())
  assert record["clips"] == 4
  for row in ("float", "calibrated", "simulated", "int8"):
    assert 0 <= record[f"{row}_accuracy"] <= 1
  cfg, integers = read_integers(whole_run / "export" / "int8.safetensors")
  assert cfg.mel.mel_bins == 24
  assert record["bytes"] == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(integers))
  assert record["file_bytes"] == (whole_run / "export" / "int8.safetensors").stat().st_size
  assert record["within_limits"] == {"parameters": True, "macs": True}
  table = (whole_run / "report.md").read_text()
  assert "fine-tuned, int8" in table
  assert "128,000" in table


@pytest.mark.slow
def test_validations_score_both_and_the_last_epoch_freezes_the_ranges(whole_run):
  rows = read_metrics(whole_run / "metrics.jsonl")
  held_out = [row for row in rows if row["part"] == "validation"]
  assert held_out
  assert all({"accuracy", "int8_accuracy"} <= set(row) for row in held_out)
  observing = [row["observing"] for row in rows if row["part"] == "train"]
  # Ten clips in batches of four: steps 0 to 4 belong to the first two epochs.
  assert observing == [1.0] * 5 + [0.0] * 3


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_integers(
  audio, student, whole_run, tmp_path, monkeypatch
):
  step = loop._Loop._train_on

  def stopped(self, batch):
    step(self, batch)
    if self.step == 2:
      signal.raise_signal(signal.SIGTERM)

  cfg = configured(audio, student, tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(loop._Loop, "_train_on", stopped)
    assert quantise.main(cfg) == 128 + signal.SIGTERM
  assert quantise.main(cfg) == 0
  files = [folder / "export" / "int8.safetensors" for folder in (whole_run, tmp_path)]
  assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_teacher_is_learnt_from(audio, student, tmp_path):
  store = LogitStore(tmp_path / "logits", {"classes": ["high", "low"], "models": ["m"]})
  names = [f"train/{('low', 'high')[n % 2]}/{n}.wav" for n in range(10)]
  store.add(names, np.random.default_rng(0).normal(0, 3, (10, 2)).astype(np.float32))
  cfg = configured(audio, student, tmp_path / "run", teacher=str(tmp_path / "logits"))
  loop = replace(cfg.loop, epochs=1, validate_every=0)
  assert quantise.main(replace(cfg, loop=loop, frozen_epochs=0)) == 0
  rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
  assert all(row["teacher_loss"] > 0 for row in rows if row["part"] == "train")


@pytest.mark.slow
def test_a_step_moves_weights_and_ranges_and_a_frozen_one_weights_alone(student):
  recipe = Recipe("classes", NO_AUGMENT, None, TemperatureConfig(), Epochs(4, 4, 4))
  task = quantised_task(MODEL, recipe, 1)
  params, stats = student[1]["params"], student[1]["batch_stats"]
  read = folded_start(MODEL, lambda: {"params": params, "model_state": {"batch_stats": stats}})
  start = read()
  jax.tree.map(
    np.testing.assert_array_equal, start["params"], jax.device_get(fold(MODEL, student[1]))
  )
  wave = 0.1 * jax.random.normal(jax.random.key(1), (4, 6_400))
  batch = {"wave": wave, "labels": jnp.array([0, 1, 1, 0])}

  def step(params, state, observing):
    return task.loss(params, state, {**batch, "observing": observing}, jax.random.key(0), True)

  both = quick(jax.value_and_grad(step, has_aux=True))
  (loss, (state, metrics)), gradient = both(start["params"], start["model_state"], 1.0)
  assert np.isfinite(loss)
  assert float(metrics["counted"]) == 4
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient)) > 0
  assert int(state["ranges"]["batches"]) == 1
  (_, (same, _)), _ = both(start["params"], state, 0.0)
  jax.tree.map(np.testing.assert_array_equal, same, state)
  assert [float(task.at(jnp.int32(n))["observing"]) for n in range(4)] == [1, 1, 1, 0]


def test_the_step_of_a_run_traces(audio, student, capsys):
  # Over all eight simulated devices, as a dry run has it.
  loop = replace(TINY.loop, batch_size=8)
  assert quantise.main(configured(audio, student, "", dry_run=True, loop=loop)) == 0
  told = capsys.readouterr().out
  folded = jax.eval_shape(lambda v: fold(MODEL, v), student[1])
  assert f"{sum(x.size for x in jax.tree.leaves(folded)):,} parameters" in told
  assert "observing" in told


def test_recipes_are_as_the_reference_text_has_them():
  cfg = EXPERIMENTS["tau22_student"]
  assert (cfg.loop.epochs, cfg.loop.batch_size, cfg.optim.peak_lr) == (20, 256, 5e-5)
  told = cfg.schedule
  assert (told.warmup, told.ramp_start, told.ramp_length, told.last) == (0, 1, 16, 0.1)
  assert (cfg.augment.roll, cfg.frozen_epochs) == (4000, 4)
  assert cfg.distil == DistilConfig(0.02, 2.0, mean_over="clips_and_classes")
  text = json.dumps(config_io.to_dict(cfg))
  assert config_io.from_dict(QuantiseConfig, json.loads(text)) == cfg


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: quantise.main(replace(TINY, init="")), "--init"),
    (lambda: quantise.main(replace(TINY, model=MNConfig())), "of CP-Mobile alone"),
    (lambda: quantise.main(replace(TINY, init="x", norm_momentum=0.1)), "--norm_momentum: no norm"),
    (
      lambda: quantise.main(replace(TINY, init="x", model=MODEL.with_compute(dtype="bfloat16"))),
      "--model.compute.dtype bfloat16",
    ),
    (lambda: replace(TINY, frozen_epochs=3), "--frozen_epochs 3: give 0 to 2"),
  ],
)
def test_what_cannot_be_quantised_is_refused_in_a_line(make, message):
  with pytest.raises(UsageError, match=message) as refused:
    make()
  assert "\n" not in str(refused.value)
