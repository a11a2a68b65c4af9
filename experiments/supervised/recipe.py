"""What happens to a clip on its way into the loss, as settings. Off is 0 throughout.

Source: reference text of MN and DyMN, sections 5.4 and 10.
"""

from __future__ import annotations

import dataclasses

from experiments.training.errors import UsageError
from mobile_jax.losses import MeanOver, Partner
from pipelines.impulse_response import Of
from pipelines.mixing import WAVE_SHARE
from pipelines.mixstyle import ALPHA
from pipelines.wave_augment import GAIN_DECIBELS, ROLL_SAMPLES


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
  perturb: bool = True  # draw the front end's band anew for every batch, and its masks
  mixup: float = 0.3  # alpha of Beta(alpha, alpha), of the log-mels
  mixstyle: float = 0.0  # probability of a batch; above 0 it takes the place of mixup
  mixstyle_alpha: float = ALPHA  # of Beta(alpha, alpha), the share of a clip's own statistics

  def __post_init__(self):
    for name, high in (("wave_mixup", 1.0), ("mixstyle", 1.0), ("response_p", 1.0)):
      if not 0 <= getattr(self, name) <= high:
        raise UsageError(f"--augment.{name} {getattr(self, name)}: it must be from 0 to {high:g}")
    for name in ("gain", "roll", "mixup"):
      if getattr(self, name) < 0:
        raise UsageError(f"--augment.{name} {getattr(self, name)}: it must be 0 (off) or more")
    if not self.mixstyle_alpha > 0:
      raise UsageError(f"--augment.mixstyle_alpha {self.mixstyle_alpha}: it must be more than 0")


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
