"""The recipes of the scene models against the tables of the reference text, sections 1, 5, 6, 7."""

import pytest

from experiments.configs.scenes import DISTILL, FINETUNE, STUDENT
from mobile_jax.scene_config import SCENE_SIZES

# epochs, batch, rate, (warm-up, start and length of the ramp, last), decay, roll
PROGRAMS = {
  "student": (150, 256, 9e-4, (14, 50, 84, 0.005), 1e-4, 4000),
  "cp_resnet": (150, 256, 1e-3, (15, 50, 85, 0.005), 1e-3, 4000),
  "passt": (25, 80, 1e-5, (3, 3, 10, 0.01), 1e-3, 10_000),
}
# alpha, probability of Freq-MixStyle and of an impulse response: of the code and of the paper
GENERALISATION = {
  "student": ((0.3, 0.4, 0.6), (0.3, 0.4, 0.6)),
  "cp_resnet_32": ((0.4, 0.8, 0.4), (0.3, 0.8, 0.4)),
  "cp_mobile_64": ((0.3, 0.8, 0.4), (0.3, 0.8, 0.4)),
  "passt": ((0.4, 0.4, 0.6), (0.4, 0.4, 0.6)),
}
ALL = {**FINETUNE, **DISTILL}


@pytest.mark.parametrize("name", ["student", *(f"cp_resnet_{n}" for n in (32, 232)), "passt"])
def test_optimisation(name):
  cfg = ALL[f"tau22_{name}"]
  epochs, batch, rate, ramp, decay, roll = PROGRAMS[name.rstrip("_0123456789")]
  schedule = cfg.schedule
  assert (cfg.loop.epochs, cfg.loop.batch_size) == (epochs, batch)
  assert (cfg.optim.peak_lr, cfg.optim.weight_decay, cfg.augment.roll) == (rate, decay, roll)
  assert (schedule.warmup, schedule.ramp_start, schedule.ramp_length, schedule.last) == ramp
  assert cfg.optim.coupled_decay
  assert cfg.optim.decay == "everything"
  assert (cfg.optim.beta1, cfg.optim.beta2, cfg.optim.eps) == (0.9, 0.999, 1e-8)


@pytest.mark.parametrize("name", GENERALISATION)
def test_device_generalisation_of_code_and_paper(name):
  for end, told in zip(("", "_paper"), GENERALISATION[name], strict=True):
    augment = ALL[f"tau22_{name}{end}"].augment
    assert (augment.mixstyle_alpha, augment.mixstyle, augment.response_p) == told
    assert augment.response_of == ("all_devices" if end else "main_device")
    assert (augment.gain, augment.wave_mixup, augment.mixup, augment.perturb) == (0, 0.0, 0.0, True)


def test_distillation():
  assert (STUDENT.distil.label_weight, STUDENT.distil.temperature) == (0.02, 2.0)
  assert STUDENT.distil.mean_over == "clips_and_classes"
  assert DISTILL["tau22_student_paper"].distil.mean_over == "clips"
  assert STUDENT.model == SCENE_SIZES["cp_mobile_32"]


def test_masks_and_patchout():
  student, passt = STUDENT.model, FINETUNE["tau22_passt"].model
  assert (student.mel.freq_mask, student.mel.time_mask) == (48, 0)
  assert (passt.mel.freq_mask, passt.mel.time_mask) == (48, 20)
  assert student.mel.mask_sharing == passt.mel.mask_sharing == "batch"
  assert (passt.patchout_frequency, passt.patchout_time) == (6, 0)


def test_every_network_of_the_paper_teaches():
  assert {f"tau22_{size}" for size in SCENE_SIZES} <= set(FINETUNE)
  assert all(cfg.data.crop == "single" and cfg.data.crop_seconds == 1.0 for cfg in ALL.values())
