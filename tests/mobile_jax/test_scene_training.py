"""What scene models are trained with: front ends, Freq-MixStyle, distillation, rates by epoch."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.supervised.recipe import NO_AUGMENT, TemperatureConfig
from experiments.supervised.task import Recipe, supervised_task
from experiments.training.epoch_factor import EpochFactor
from experiments.training.epochs import Epochs
from mobile_jax.losses import class_loss, distilled, soft_class_loss
from mobile_jax.passt_config import PaSSTConfig
from mobile_jax.scene_config import CP_MOBILE_MEL, CP_RESNET_MEL, CPMobileConfig
from pipelines.kaldi_mel import KaldiMelConfig, eval_filterbank, log_mel_32k, log_mel_of_draws
from pipelines.mixstyle import mixstyle
from tests.mobile_jax.fixtures import quick

PASST_ASC = KaldiMelConfig(fmin_range=1, fmax_range=1000)
FRONT_ENDS = {
  "student": CP_MOBILE_MEL,
  "cpresnet": CP_RESNET_MEL,
  "passt_asc": PASST_ASC,
  "passt_audioset": KaldiMelConfig(),
  "student_fmin0_fmax15877": dataclasses.replace(CP_MOBILE_MEL, fmax=15877.0),
  "passt_audioset_fmin7_fmax15003": KaldiMelConfig(fmin=7.0, fmax=15003.0),
}


@functools.cache
def log_mel(cfg):
  return quick(lambda wave: log_mel_32k(wave, cfg))


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_front_ends(name, scene_fixtures):
  recorded = load_file(scene_fixtures / "mel_frontends.safetensors")
  got = log_mel(FRONT_ENDS[name])(jnp.asarray(recorded["wave"]))[0]
  np.testing.assert_allclose(got, recorded[f"mel/{name}"], atol=5e-5)


def test_silence_and_a_short_clip(scene_fixtures):
  recorded = load_file(scene_fixtures / "mel_frontends.safetensors")
  got = log_mel(CP_MOBILE_MEL)(jnp.zeros((1, 32_000)))[0]
  np.testing.assert_allclose(got, recorded["mel/student_silence"], atol=1e-6)
  got = log_mel(CP_MOBILE_MEL)(jnp.asarray(recorded["wave_short"]))[0]
  np.testing.assert_allclose(got, recorded["mel/student_short"], atol=5e-5)


def test_the_recorded_mask(scene_fixtures):
  """Zero in the logarithm, so 0.9 behind the normalisation; all other rows as they are."""
  recorded = load_file(scene_fixtures / "mel_frontends.safetensors")
  rows = recorded["freqmask_rows"]
  # Uniforms that hide just these rows: 43 of 256, from 174 on.
  width, start = (len(rows) + 0.5) / 48, (rows[0] + 0.5) / (256 - len(rows) - 0.5)
  uniforms = jnp.array([[width], [start], [0.0], [0.0]], jnp.float32)
  band = (jnp.float32(CP_MOBILE_MEL.fmin), jnp.float32(CP_MOBILE_MEL.high_hz))
  wave = jnp.asarray(recorded["wave"])
  masked = quick(lambda wave, u: log_mel_of_draws(wave, CP_MOBILE_MEL, *band, u)[0])
  got = np.asarray(masked(wave, uniforms))
  np.testing.assert_allclose(got, recorded["mel/student_freqmask"], atol=5e-5)
  np.testing.assert_allclose(got[rows], 0.9, rtol=1e-6)


def test_banks(scene_fixtures):
  banks = np.load(scene_fixtures / "mel_filterbanks.npz")
  assert len(banks.files) == 3
  ours = [eval_filterbank(cfg) for cfg in (CP_MOBILE_MEL, PASST_ASC, KaldiMelConfig())]
  for name in banks.files:
    want = banks[name]
    gaps = [np.abs(bank - want).max() for bank in ours if bank.shape == want.shape]
    assert min(gaps) < 4e-5, name


def test_freq_mixstyle_and_its_gradient(scene_fixtures):
  recorded = load_file(scene_fixtures / "freq_mixstyle.safetensors")
  x, cotangent = (jnp.asarray(recorded[name][:, 0]) for name in ("in", "cotangent"))
  share = jnp.asarray(recorded["lambda"].reshape(-1))
  partner = jnp.asarray(recorded["perm"].astype(np.int32))

  @quick
  def both(x, cotangent):
    y, backwards = jax.vjp(lambda x: mixstyle(x, share, partner), x)
    return y, backwards(cotangent)[0]

  y, gradient = both(x, cotangent)
  np.testing.assert_allclose(y, recorded["out"][:, 0], atol=1e-5)
  np.testing.assert_allclose(gradient, recorded["grad_in"][:, 0], atol=1e-5)


@pytest.mark.parametrize("setting", ["T2_lam0.02", "T1_lam0.5", "T4_lam0.1"])
@pytest.mark.parametrize(
  ("whose", "mean_over"), [("paper", "clips"), ("code", "clips_and_classes")]
)
def test_distillation_in_both_reductions(setting, whose, mean_over, scene_fixtures):
  recorded = load_file(scene_fixtures / "kd_loss.safetensors")
  temperature, weight = (float(x) for x in setting[1:].split("_lam"))
  teacher = recorded["teacher_logits_3"].mean(axis=0)
  np.testing.assert_allclose(teacher, recorded["ensemble_logits"])
  labels = jax.nn.one_hot(jnp.asarray(recorded["labels"].astype(np.int32)), 10)
  rows = len(labels)
  nothing_mixed = jnp.ones(rows), jnp.arange(rows)

  def loss(logits):
    label = class_loss(logits, labels)
    soft = soft_class_loss(
      logits,
      jnp.asarray(teacher, jnp.float32),
      jnp.ones(rows, bool),
      *nothing_mixed,
      temperature=temperature,
      mean_over=mean_over,
    )
    return jnp.mean(distilled(label, soft, weight)), (jnp.mean(label), jnp.mean(soft))

  logits = jnp.asarray(recorded["student_logits"], jnp.float32)
  (total, (label, soft)), gradient = quick(jax.value_and_grad(loss, has_aux=True))(logits)
  want = {name: recorded[f"{setting}/{whose}/{name}"] for name in ("ce", "kd", "total", "grad")}
  np.testing.assert_allclose(label, want["ce"][0], rtol=2e-6)
  np.testing.assert_allclose(total, want["total"][0], rtol=2e-6)
  np.testing.assert_allclose(gradient, want["grad"], atol=1e-7)
  np.testing.assert_allclose(soft, want["kd"][0], rtol=2e-6)


@pytest.mark.parametrize("program", ["student", "cpresnet", "passt", "qat"])
def test_rates_by_epoch(program, scene_fixtures):
  told = json.loads((scene_fixtures / "lr_schedules.json").read_text())[program]
  factor = EpochFactor(
    told["warmup"], told["ramp_down_start"], told["ramp_down_len"], told["last_value"]
  )
  got = [factor(epoch) for epoch in range(len(told["factor_per_epoch"]))]
  np.testing.assert_allclose(got, told["factor_per_epoch"], rtol=1e-9)


NETWORKS = {
  "cp_mobile": CPMobileConfig(
    classes=3, base_channels=8, blocks_per_stage=(1, 1, 1), halved=(2,), halved_frequency=()
  ),
  "passt": PaSSTConfig(classes=3, width=16, depth=1, heads=1, patchout_frequency=4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_of_the_trainer(name):
  """A loss, its gradient and new statistics; patchout is drawn from the step's key."""
  cfg = NETWORKS[name].with_compute(kernels="xla")
  epochs = Epochs(2, 4, 4)
  recipe = Recipe("classes", NO_AUGMENT, None, TemperatureConfig(), epochs)
  task = supervised_task(cfg, recipe)
  state = quick(task.init)(jax.random.key(0))
  state = jax.tree.map(lambda x: x, {"params": state["params"], "rest": state["model_state"]})
  wave = 0.1 * jax.random.normal(jax.random.key(1), (4, 16_000))
  batch = {"wave": wave, "labels": jnp.array([0, 1, 2, 1])}

  def step(params, rest, key):
    return task.loss(params, rest, batch, key, True)

  both = quick(jax.value_and_grad(step, has_aux=True))
  (loss, (rest, _)), gradient = both(state["params"], state["rest"], jax.random.key(0))
  (other, _), _ = both(state["params"], state["rest"], jax.random.key(1))
  assert np.isfinite(loss)
  assert any(np.any(x) for x in jax.tree.leaves(jax.device_get(gradient)))
  if name == "passt":
    assert loss != other
    assert rest == {"batch_stats": {}}
  else:
    assert loss == other
    moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != b)), rest, state["rest"])
    assert any(jax.tree.leaves(moved))
