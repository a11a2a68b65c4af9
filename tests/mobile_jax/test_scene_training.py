"""What scene models are trained with: front ends, Freq-MixStyle, distillation, rates by epoch."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.training.epoch_factor import EpochFactor
from mobile_jax.losses import class_loss, distilled, soft_class_loss
from mobile_jax.scene_config import CP_MOBILE_MEL, CP_RESNET_MEL
from pipelines.kaldi_mel import KaldiMelConfig, eval_filterbank, log_mel_32k
from pipelines.mixstyle import mixstyle


@pytest.fixture(scope="module")
def scenes(shared):
  """The recorded arrays of the scene models."""
  folder = shared / "fixtures" / "scenes"
  if not folder.is_dir():
    pytest.skip(f"needs the recorded arrays in {shared.name}/fixtures/scenes")
  return folder


PASST_ASC = KaldiMelConfig(fmin_range=1, fmax_range=1000)
FRONT_ENDS = {
  "student": CP_MOBILE_MEL,
  "cpresnet": CP_RESNET_MEL,
  "passt_asc": PASST_ASC,
  "passt_audioset": KaldiMelConfig(),
  "student_fmin0_fmax15877": dataclasses.replace(CP_MOBILE_MEL, fmax=15877.0),
  "passt_audioset_fmin7_fmax15003": KaldiMelConfig(fmin=7.0, fmax=15003.0),
}


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_front_ends(name, scenes):
  recorded = load_file(scenes / "mel_frontends.safetensors")
  got = log_mel_32k(jnp.asarray(recorded["wave"]), FRONT_ENDS[name])[0]
  np.testing.assert_allclose(got, recorded[f"mel/{name}"], atol=5e-5)


def test_silence_and_a_short_clip(scenes):
  recorded = load_file(scenes / "mel_frontends.safetensors")
  got = log_mel_32k(jnp.zeros((1, 32_000)), CP_MOBILE_MEL)[0]
  np.testing.assert_allclose(got, recorded["mel/student_silence"], atol=1e-6)
  got = log_mel_32k(jnp.asarray(recorded["wave_short"]), CP_MOBILE_MEL)[0]
  np.testing.assert_allclose(got, recorded["mel/student_short"], atol=5e-5)


def test_a_masked_row_is_zero_in_the_logarithm(scenes):
  """0.9 behind the normalisation, and every other row as it is."""
  recorded = load_file(scenes / "mel_frontends.safetensors")
  rows = recorded["freqmask_rows"]
  want = np.array(recorded["mel/student"])
  want[rows] = 0.9
  np.testing.assert_allclose(recorded["mel/student_freqmask"], want, atol=1e-5)


def test_banks(scenes):
  banks = np.load(scenes / "mel_filterbanks.npz")
  assert len(banks.files) == 3
  ours = [eval_filterbank(cfg) for cfg in (CP_MOBILE_MEL, PASST_ASC, KaldiMelConfig())]
  for name in banks.files:
    want = banks[name]
    gaps = [np.abs(bank - want).max() for bank in ours if bank.shape == want.shape]
    assert min(gaps) < 4e-5, name


def test_freq_mixstyle_and_its_gradient(scenes):
  recorded = load_file(scenes / "freq_mixstyle.safetensors")
  x, cotangent = (jnp.asarray(recorded[name][:, 0]) for name in ("in", "cotangent"))
  share = jnp.asarray(recorded["lambda"].reshape(-1))
  partner = jnp.asarray(recorded["perm"].astype(np.int32))
  y, backwards = jax.vjp(lambda x: mixstyle(x, share, partner), x)
  np.testing.assert_allclose(y, recorded["out"][:, 0], atol=1e-5)
  np.testing.assert_allclose(backwards(cotangent)[0], recorded["grad_in"][:, 0], atol=1e-5)


@pytest.mark.parametrize("setting", ["T2_lam0.02", "T1_lam0.5", "T4_lam0.1"])
@pytest.mark.parametrize(
  ("whose", "mean_over"), [("paper", "clips"), ("code", "clips_and_classes")]
)
def test_distillation_in_both_reductions(setting, whose, mean_over, scenes):
  recorded = load_file(scenes / "kd_loss.safetensors")
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
  (total, (label, soft)), gradient = jax.value_and_grad(loss, has_aux=True)(logits)
  want = {name: recorded[f"{setting}/{whose}/{name}"] for name in ("ce", "kd", "total", "grad")}
  np.testing.assert_allclose(label, want["ce"][0], rtol=2e-6)
  np.testing.assert_allclose(total, want["total"][0], rtol=2e-6)
  np.testing.assert_allclose(gradient, want["grad"], atol=1e-7)
  np.testing.assert_allclose(soft, want["kd"][0], rtol=2e-6)


@pytest.mark.parametrize("program", ["student", "cpresnet", "passt", "qat"])
def test_rates_by_epoch(program, scenes):
  told = json.loads((scenes / "lr_schedules.json").read_text())[program]
  factor = EpochFactor(
    told["warmup"], told["ramp_down_start"], told["ramp_down_len"], told["last_value"]
  )
  got = [factor(epoch) for epoch in range(len(told["factor_per_epoch"]))]
  np.testing.assert_allclose(got, told["factor_per_epoch"], rtol=1e-9)
