"""Named quantisation-aware fine-tuning runs of CP-Mobile.

    python -m experiments.quantise --config tau22_student --init cp_mobile_dcase23 \
      --data.source tau22=FOLDER --augment.responses MICS --teacher LOGITS --workdir runs/int8

Source: reference text of the scene models, sections 5 to 8 (column QAT).
"""

from __future__ import annotations

import dataclasses

from experiments.configs.finetune import adam
from experiments.configs.scenes import STUDENT
from experiments.configs.supervised import EpochLoopConfig, SupervisedConfig
from experiments.supervised.recipe import NO_AUGMENT
from experiments.training.epoch_factor import EpochFactor
from experiments.training.errors import UsageError


@dataclasses.dataclass(frozen=True)
class QuantiseConfig(SupervisedConfig):
  """One quantisation-aware run; `init` is the float network, and has to be given."""

  frozen_epochs: int = 4  # last epochs in which the ranges of activations move no more

  def __post_init__(self):
    if not 0 <= self.frozen_epochs < self.loop.epochs:
      raise UsageError(
        f"--frozen_epochs {self.frozen_epochs}: give 0 to {self.loop.epochs - 1}; the first of "
        f"--loop.epochs {self.loop.epochs} measures the ranges"
      )


# As the student was trained, at a lower rate: two epochs at the peak, sixteen down to a tenth.
_STUDENT = QuantiseConfig(
  about="the student of 128K parameters for eight bits, from a teacher's stored logits",
  model=STUDENT.model,
  data=STUDENT.data,
  augment=STUDENT.augment,
  distil=STUDENT.distil,
  optim=dataclasses.replace(STUDENT.optim, peak_lr=5e-5),
  schedule=EpochFactor(warmup=0, ramp_start=1, ramp_length=16, last=0.1),
  loop=EpochLoopConfig(epochs=20, batch_size=256, log_every=50),
)

EXPERIMENTS: dict[str, QuantiseConfig] = {
  "tau22_student": _STUDENT,
  "own": dataclasses.replace(
    _STUDENT,
    about="any set: batches of 32, a higher rate, nothing augmented but a roll",
    augment=dataclasses.replace(NO_AUGMENT, roll=4000),
    distil=dataclasses.replace(STUDENT.distil, mean_over="clips"),
    optim=adam(2e-4),
    loop=EpochLoopConfig(epochs=20, batch_size=32, validate_every=5, save_every=5),
  ),
}
