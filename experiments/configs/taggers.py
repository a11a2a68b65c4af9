"""Named runs of the taggers that decide at every time step, MobileNetV2 and EfficientNet-B0.

    finetune --config audioset_mobilenet_v2 --data.source audioset_balanced=FOLDER
    finetune --config audioset_mobilenet_v2_paper --data.source audioset_weak=FOLDER

Both begin with random weights. The names tell the public code's settings; those that end in
`_paper` have the paper's where the two differ: the rate, pairs of log-mels in place of waves, a
validation every sixth of an epoch, and so how long a run may last without a gain. What only one of
the two says (the waves' changes, the width of the masks) is in both. No public code trains
EfficientNet-B0 so; it has MobileNetV2's settings.

Source: reference text of the weakly supervised taggers, sections 3 and 6; Dinkel et al. 2022.
"""

from __future__ import annotations

import dataclasses

from experiments.configs.finetune import adam
from experiments.configs.supervised import NO_SOURCE, EpochLoopConfig, SupervisedConfig
from experiments.supervised.recipe import NO_AUGMENT
from experiments.training.epoch_factor import CONSTANT
from experiments.training.selection import SelectConfig
from mobile_jax.decision_config import DECISION_SIZES
from pipelines import DataConfig
from pipelines.spec_masks import DECISION_MASKS
from pipelines.wave_augment import HALF

SAMPLE_RATE = 16_000


def _released(size: str) -> SupervisedConfig:
  return SupervisedConfig(
    about=f"{size} on AudioSet from random weights, labels balanced, as in the public code",
    model=DECISION_SIZES[size],
    data=DataConfig(
      source=NO_SOURCE,
      sample_rate=SAMPLE_RATE,
      crop_seconds=10.0,
      crop="first",
      order="balanced",
    ),
    augment=dataclasses.replace(
      NO_AUGMENT,
      pairs="wave",
      half_waves=HALF,
      freq_mask=DECISION_MASKS[0],
      time_mask=DECISION_MASKS[1],
    ),
    optim=adam(1e-3),
    schedule=CONSTANT,
    loop=EpochLoopConfig(epochs=300, batch_size=32, log_every=50),
    select=SelectConfig(metric="mAP", patience=15, average=4),
  )


def _of_the_paper(cfg: SupervisedConfig) -> SupervisedConfig:
  """The same with what the paper says where the code says something else."""
  return dataclasses.replace(
    cfg,
    about=cfg.about.replace("as in the public code", "as in the paper"),
    augment=dataclasses.replace(cfg.augment, pairs="spectrum"),
    optim=adam(1e-4),
    loop=dataclasses.replace(cfg.loop, epochs=100, validate_every=1 / 6, save_every=1 / 6),
    select=dataclasses.replace(cfg.select, patience=5),
  )


def _quick(cfg: SupervisedConfig, size: str) -> SupervisedConfig:
  """For a few hundred clips of a second or two: a narrow network, narrow masks, some epochs.

  Goes by the loss, which sets with tags and sets with classes have.
  """
  return dataclasses.replace(
    cfg,
    about=f"the recipe of {size} in a minute: a narrow network, some hundred clips of a second",
    model=dataclasses.replace(DECISION_SIZES[size], width=0.35, last=320),
    data=dataclasses.replace(cfg.data, crop_seconds=1.0, crop="single", cache="memory"),
    augment=dataclasses.replace(cfg.augment, freq_mask=6, time_mask=10),
    norm_momentum=0.1,
    loop=EpochLoopConfig(epochs=12, batch_size=32, log_every=5, validate_every=0.5),
    select=SelectConfig(metric="loss", patience=8, average=4),
  )


_RELEASED = {size: _released(size) for size in DECISION_SIZES}

FINETUNE: dict[str, SupervisedConfig] = {
  **{f"audioset_{size}": cfg for size, cfg in _RELEASED.items()},
  **{f"audioset_{size}_paper": _of_the_paper(cfg) for size, cfg in _RELEASED.items()},
  **{f"quick_{size}": _quick(cfg, size) for size, cfg in _RELEASED.items()},
}
