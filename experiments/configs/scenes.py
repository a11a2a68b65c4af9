"""Named runs of the scene models on TAU Urban Acoustic Scenes 2022 Mobile.

    teachers   finetune --config tau22_cp_resnet_32 | ..._cp_mobile_64 | tau22_passt
    student    distill  --config tau22_student

The names tell the released code's settings; those that end in `_paper` have the paper's where the
two differ: any device is heard through other microphones, CP-ResNet's share of its own statistics,
and the mean of the teacher's term. `--augment.response_p 0` and `--augment.mixstyle 0` switch the
two methods of device generalisation off.

Source: reference text of the scene models, sections 5 to 7; Morocutti et al. 2023.
"""

from __future__ import annotations

import dataclasses

from experiments.configs.finetune import labelled_data
from experiments.configs.supervised import EpochLoopConfig, SupervisedConfig
from experiments.supervised.recipe import AugmentConfig, DistilConfig
from experiments.training.epoch_factor import EpochFactor
from experiments.training.optim import OptimConfig
from mobile_jax.families import Config
from mobile_jax.passt_config import PASST_SIZES
from mobile_jax.scene_config import SCENE_SIZES, SECONDS


def _adam(peak_lr: float, decay: float) -> OptimConfig:
  """Adam with the decay of every parameter in its gradient; the rate changes by the epoch."""
  return OptimConfig(
    peak_lr=peak_lr,
    schedule="constant",
    warmup_steps=0,
    weight_decay=decay,
    coupled_decay=True,
  )


def _augment(alpha: float, mixstyle: float, response_p: float, roll: int = 4000) -> AugmentConfig:
  """Microphones, roll, the moved band with its masks, and Freq-MixStyle; nothing is mixed."""
  return AugmentConfig(
    response_p=response_p,
    gain=0,
    roll=roll,
    wave_mixup=0.0,
    mixup=0.0,
    mixstyle=mixstyle,
    mixstyle_alpha=alpha,
  )


def _recipe(
  about: str,
  model: Config,
  augment: AugmentConfig,
  optim: OptimConfig,
  schedule: EpochFactor,
  epochs: int,
  batch: int,
) -> SupervisedConfig:
  return SupervisedConfig(
    about=about,
    model=model,
    data=labelled_data(SECONDS, "single"),
    augment=augment,
    optim=optim,
    schedule=schedule,
    loop=EpochLoopConfig(epochs=epochs, batch_size=batch),
  )


def _of_the_paper(cfg: SupervisedConfig, **augment) -> SupervisedConfig:
  """The same with what the paper says where the code says something else."""
  return dataclasses.replace(
    cfg,
    about=f"{cfg.about}, as in the paper",
    augment=dataclasses.replace(cfg.augment, response_of="all_devices", **augment),
    distil=dataclasses.replace(cfg.distil, mean_over="clips"),
  )


STUDENT = dataclasses.replace(
  _recipe(
    "the student of 128K parameters, from a teacher's stored logits",
    SCENE_SIZES["cp_mobile_32"],
    _augment(alpha=0.3, mixstyle=0.4, response_p=0.6),
    _adam(9e-4, 1e-4),
    EpochFactor(warmup=14, ramp_start=50, ramp_length=84, last=0.005),
    epochs=150,
    batch=256,
  ),
  distil=DistilConfig(label_weight=0.02, temperature=2.0, mean_over="clips_and_classes"),
)


def _teacher(size: str) -> SupervisedConfig:
  """CP-ResNet as released. CP-Mobile has no released teacher: its settings, the paper's share."""
  resnet = size.startswith("cp_resnet")
  return _recipe(
    f"{size} as a teacher",
    SCENE_SIZES[size],
    _augment(alpha=0.4 if resnet else 0.3, mixstyle=0.8, response_p=0.4),
    _adam(1e-3, 1e-3),
    EpochFactor(warmup=15, ramp_start=50, ramp_length=85, last=0.005),
    epochs=150,
    batch=256,
  )


_PASST = _recipe(
  "PaSST as a teacher; begin with AudioSet's weights by --init",
  PASST_SIZES["passt_scenes"],
  _augment(alpha=0.4, mixstyle=0.4, response_p=0.6, roll=10_000),
  _adam(1e-5, 1e-3),
  EpochFactor(warmup=3, ramp_start=3, ramp_length=10, last=0.01),
  epochs=25,
  batch=80,
)
_TEACHERS = {size: _teacher(size) for size in SCENE_SIZES}


def _quick(cfg: SupervisedConfig) -> SupervisedConfig:
  """For a set of a thousand clips: fewer epochs of more steps, at higher rates."""
  return dataclasses.replace(
    cfg,
    about=f"{cfg.about}, on a set of a thousand clips",
    optim=dataclasses.replace(cfg.optim, peak_lr=2e-3),
    schedule=EpochFactor(warmup=2, ramp_start=6, ramp_length=13, last=0.01),
    loop=EpochLoopConfig(epochs=20, batch_size=32, validate_every=20, save_every=20),
  )


FINETUNE: dict[str, SupervisedConfig] = {
  **{f"tau22_{size}": cfg for size, cfg in _TEACHERS.items()},
  **{
    f"tau22_{size}_paper": _of_the_paper(cfg, mixstyle_alpha=0.3) for size, cfg in _TEACHERS.items()
  },
  **{f"quick_{size}": _quick(cfg) for size, cfg in _TEACHERS.items()},
  "tau22_passt": _PASST,
  "tau22_passt_paper": _of_the_paper(_PASST),
}
DISTILL: dict[str, SupervisedConfig] = {
  "tau22_student": STUDENT,
  "tau22_student_paper": _of_the_paper(STUDENT),
  "quick_student": _quick(STUDENT),
}
