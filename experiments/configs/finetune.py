"""Named fine-tuning runs: the four released recipes, and one for anyone's own audio.

Source: reference text of MN and DyMN, section 10.3.
"""

from __future__ import annotations

import dataclasses

from experiments.configs.supervised import NO_SOURCE, SAMPLE_RATE, EpochLoopConfig, SupervisedConfig
from experiments.supervised.recipe import NO_AUGMENT, AugmentConfig
from experiments.training.epoch_factor import EpochFactor
from experiments.training.optim import OptimConfig
from mobile_jax.config import SIZES
from pipelines import DataConfig

# Eighty epochs; ten up, and down over the next sixty-five.
SCHEDULE = EpochFactor(warmup=10, ramp_start=10, ramp_length=65, last=0.01)


def adam(peak_lr: float) -> OptimConfig:
  """Adam without decay at a rate that changes by the epoch alone."""
  return OptimConfig(peak_lr=peak_lr, schedule="constant", warmup_steps=0, weight_decay=0.0)


def labelled_data(seconds: float, crop: str = "sequential", **changes) -> DataConfig:
  """32 kHz clips of this length from a labelled set that is still to be named."""
  return DataConfig(
    source=NO_SOURCE, sample_rate=SAMPLE_RATE, crop_seconds=seconds, crop=crop, **changes
  )


def _recipe(
  about: str, size: str, seconds: float, crop: str, batch: int, peak_lr: float
) -> SupervisedConfig:
  return SupervisedConfig(
    about=about,
    model=SIZES[size],
    data=labelled_data(seconds, crop),
    optim=adam(peak_lr),
    schedule=SCHEDULE,
    loop=EpochLoopConfig(epochs=80, batch_size=batch),
  )


def _both(
  set_name: str, seconds: float, crop: str, mn: tuple[int, float], dymn: tuple[int, float]
) -> dict[str, SupervisedConfig]:
  """The recipe of MN and that of DyMN, which has its own batch and rate."""
  return {
    set_name: _recipe(f"{set_name} as released for MN", "mn10", seconds, crop, *mn),
    f"{set_name}_dymn": _recipe(f"{set_name} as released for DyMN", "dymn10", seconds, crop, *dymn),
  }


_ESC50 = _both("esc50", 5.0, "first", (128, 6e-5), (64, 4e-5))
_DCASE20 = _both("dcase20", 10.0, "first", (64, 8e-4), (32, 3e-4))

EXPERIMENTS: dict[str, SupervisedConfig] = {
  **_ESC50,
  **_both("openmic", 10.0, "first", (64, 1e-5), (32, 2e-5)),
  **_both("fsd50k", 10.0, "single", (64, 7e-5), (32, 4e-5)),
  **_DCASE20,
  "dcase20_mixstyle": dataclasses.replace(
    _DCASE20["dcase20"],
    about="dcase20 with MixStyle of every second batch in place of mixup",
    augment=AugmentConfig(mixstyle=0.5),
  ),
  **{
    f"esc50_quick{kind}": dataclasses.replace(
      _ESC50[f"esc50{kind}"],
      about="the recipe of esc50 in twelve epochs, with smaller batches and a higher rate",
      optim=adam(peak_lr),
      schedule=EpochFactor(warmup=2, ramp_start=3, ramp_length=9, last=0.01),
      loop=EpochLoopConfig(epochs=12, batch_size=32, validate_every=4, save_every=4),
    )
    for kind, peak_lr in (("", 5e-4), ("_dymn", 3e-4))
  },
  **{
    f"esc50_quick_scratch{kind}": dataclasses.replace(
      _ESC50[f"esc50{kind}"],
      about="the same without weights to begin with: more steps, and a rate for random weights",
      optim=adam(peak_lr),
      norm_momentum=0.1,
      schedule=EpochFactor(warmup=2, ramp_start=5, ramp_length=10, last=0.01),
      loop=EpochLoopConfig(epochs=15, batch_size=16, validate_every=5, save_every=5),
    )
    for kind, peak_lr in (("", 2e-3), ("_dymn", 1e-3))
  },
  **{
    f"words{kind}": dataclasses.replace(
      _ESC50[f"esc50{kind}"],
      about="words and other sounds of a second",
      data=labelled_data(1.0, "single"),
      optim=adam(peak_lr),
      norm_momentum=0.1,
      schedule=EpochFactor(warmup=1, ramp_start=2, ramp_length=6, last=0.01),
      loop=EpochLoopConfig(epochs=8, batch_size=64, validate_every=4, save_every=4),
    )
    for kind, peak_lr in (("", 5e-4), ("_dymn", 3e-4))
  },
  **{
    name: dataclasses.replace(
      _ESC50["esc50"],
      about=f"a folder for each class, or a table, for {family}: ten seconds, batches of 32",
      model=SIZES[size],
      data=labelled_data(10.0, "single"),
      optim=adam(1e-4),
      schedule=EpochFactor(warmup=3, ramp_start=5, ramp_length=15, last=0.01),
      loop=EpochLoopConfig(epochs=20, batch_size=32),
    )
    for name, family, size in (("own", "MN", "mn10"), ("own_dymn", "DyMN", "dymn10"))
  },
  "plain": dataclasses.replace(
    _ESC50["esc50"],
    about="no augmentation at all, for comparisons",
    augment=NO_AUGMENT,
  ),
}
