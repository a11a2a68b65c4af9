"""What happens to a clip on its way into the loss, as settings. Off is 0 throughout.

Source: reference text of MN and DyMN, sections 5.4 and 10; of the weakly supervised taggers,
section 3, for pairs, `half_waves` and masks in decibels.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from experiments.training.errors import UsageError
from mobile_jax.losses import MeanOver, Partner
from pipelines.impulse_response import Of
from pipelines.mixing import PAIR_ALPHA, WAVE_SHARE
from pipelines.mixstyle import ALPHA
from pipelines.spec_masks import FILL
from pipelines.wave_augment import GAIN_DECIBELS, ROLL_SAMPLES

# What clips 0 and 1, 2 and 3 and so on of a batch are made one of, which halves the batch.
Pairs = Literal["off", "wave", "spectrum"]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """Augmentations of a training step, in the order in which they act.

  All are drawn on the device, as pure functions of (seed, step). Partners for mixing are other
  clips of the batch; the released code takes those of the wave mixup from the whole set.
  """

  responses: str = ""  # folder of microphones' impulse responses, one audio file each
  response_p: float = 0.0  # probability that a clip is heard through one of them
  # clips of which that is the probability: those of the set's "main_device", as in the released
  # code, or of "all_devices", as in the paper
  response_of: Of = "main_device"
  gain: int = GAIN_DECIBELS  # decibels up or down, whole numbers
  roll: int = ROLL_SAMPLES  # samples forward or back, around the end
  wave_mixup: float = WAVE_SHARE  # share of the clips whose waves are mixed
  # mixup by pairs, which halves the batch: of waves, as the weakly supervised taggers are released,
  # or of log-mels ("spectrum"), as in their paper; takes the place of every other mixing
  pairs: Pairs = "off"
  pair_alpha: float = PAIR_ALPHA  # of Beta(alpha, alpha), the share of a pair's first clip
  # probability of each of polarity, gain of -18 to 6 dB and a roll by up to half of the clip
  half_waves: float = 0.0
  perturb: bool = True  # draw the front end's band anew for every batch, and its masks
  mixup: float = 0.3  # alpha of Beta(alpha, alpha), of the log-mels
  # masks on log-mels in decibels, one pair for the batch; other front ends have theirs in model.mel
  freq_mask: int = 0  # bands at most, of mixed clips too
  time_mask: int = 0  # frames at most
  mask_fill: float = FILL  # decibels that hidden cells hold: 0 is loud, as released
  mixstyle: float = 0.0  # probability of a batch; above 0 it takes the place of mixup
  mixstyle_alpha: float = ALPHA  # of Beta(alpha, alpha), the share of a clip's own statistics

  def __post_init__(self):
    for name in ("wave_mixup", "mixstyle", "response_p", "half_waves"):
      if not 0 <= getattr(self, name) <= 1:
        raise UsageError(f"--augment.{name} {getattr(self, name)}: it must be from 0 to 1")
    for name in ("gain", "roll", "mixup", "freq_mask", "time_mask"):
      if getattr(self, name) < 0:
        raise UsageError(f"--augment.{name} {getattr(self, name)}: it must be 0 (off) or more")
    for name in ("mixstyle_alpha", "pair_alpha"):
      if not getattr(self, name) > 0:
        raise UsageError(f"--augment.{name} {getattr(self, name)}: it must be more than 0")
    if not math.isfinite(self.mask_fill):
      raise UsageError(f"--augment.mask_fill {self.mask_fill}: give decibels, such as 0 or -100")
    others = [name for name in ("wave_mixup", "mixup", "mixstyle") if getattr(self, name)]
    if self.pairs != "off" and others:
      raise UsageError(
        f"--augment.pairs {self.pairs}: mixes clips by itself; set --augment.{others[0]} 0"
      )


NO_AUGMENT = AugmentConfig(gain=0, roll=0, wave_mixup=0.0, perturb=False, mixup=0.0)


@dataclasses.dataclass(frozen=True)
class DistilConfig:
  """How much of the loss is the teacher's, where a run has one."""

  # share of the label's loss, the rest is the teacher's; 0 switches distillation off, as released
  label_weight: float = 0.1
  temperature: float = 1.0  # the teacher's logits are divided by it
  # a clip that was mixed with one the teacher does not know: "drop" its teacher term, or take the
  # row that stands there, "as_given", as the released code does
  unknown_partner: Partner = "drop"
  # of clips with one class: the mean over "clips" alone, or over "clips_and_classes", which makes
  # the term as many times smaller as there are classes (released code of the scene students)
  mean_over: MeanOver = "clips"

  def __post_init__(self):
    if not 0 <= self.label_weight <= 1:
      raise UsageError(
        f"--distil.label_weight {self.label_weight}: it must be from 0 (labels alone) to 1"
      )
    if not self.temperature > 0:
      raise UsageError(f"--distil.temperature {self.temperature}: it must be more than 0")


@dataclasses.dataclass(frozen=True)
class TemperatureConfig:
  """The temperature of DyMN's dynamic convolutions over the epochs; the default stays at 1."""

  start: float = 1.0  # in the first epoch; 30 to train from scratch
  first_slope: float = 1.0  # down per epoch
  second_slope: float = 0.02  # of the line that takes over at 1
  end: float = 1.0  # never below

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if not getattr(self, field.name) > 0:
        raise UsageError(
          f"--temperature.{field.name} {getattr(self, field.name)}: it must be more than 0"
        )


ANNEALED = TemperatureConfig(start=30.0)
