"""What a supervised run is told: one frozen dataclass for fine-tuning and distillation."""

from __future__ import annotations

import dataclasses
import math

from experiments.supervised.recipe import AugmentConfig, DistilConfig, TemperatureConfig
from experiments.training.epoch_factor import EpochFactor
from experiments.training.errors import UsageError
from experiments.training.mesh import MeshConfig
from experiments.training.optim import OptimConfig
from experiments.training.run import LoopConfig
from experiments.training.selection import SelectConfig
from mobile_jax.config import SIZES
from mobile_jax.families import Config
from pipelines import DataConfig

NO_SOURCE = ("unset",)
SAMPLE_RATE = 32_000


@dataclasses.dataclass(frozen=True)
class EpochLoopConfig:
  """`LoopConfig` in epochs."""

  epochs: int = 80  # length of the whole run
  batch_size: int = 64  # clips of the global batch, over all devices and hosts
  seed: int = LoopConfig.seed  # decides a fresh head, order, crops and every augmentation
  log_every: int = 20  # steps; metrics are written every so many
  # epochs, or a part of one; loss and scores on the validation or test part, and at the end
  validate_every: float = 1
  save_every: float = 1  # epochs, or a part of one; a checkpoint, and at the end
  keep: int = 1  # latest checkpoints that stay
  keep_best: int = 0  # checkpoints with the lowest validation loss that stay besides
  # batches in a row without a finite loss, gradient and update before the run gives up
  max_skipped_in_row: int = LoopConfig.max_skipped_in_row
  max_skipped: int = LoopConfig.max_skipped  # the same over the whole run
  # what a checkpoint that cannot be written does: "stop" ends the run, "go_on" tries again later
  failed_save: str = LoopConfig.failed_save
  peer_seconds: int = LoopConfig.peer_seconds  # another process may be silent for

  def __post_init__(self):
    for field in ("epochs", "batch_size"):
      if getattr(self, field) < 1:
        raise UsageError(f"--loop.{field} {getattr(self, field)}: it must be at least 1")
    for field in ("validate_every", "save_every"):
      if not 0 <= getattr(self, field) < math.inf:
        raise UsageError(f"--loop.{field} {getattr(self, field)}: it must be 0 (off) or more")
    self.in_steps(1, 1)

  def in_steps(self, steps: int, clips: int) -> LoopConfig:
    """The loop of a run of `steps` steps in which an epoch has `clips` clips."""

    def interval(epochs: float) -> int:
      return max(1, round(epochs * clips / self.batch_size)) if epochs else 0

    return LoopConfig(
      steps=steps,
      batch_size=self.batch_size,
      seed=self.seed,
      log_every=self.log_every,
      validate_every=interval(self.validate_every),
      save_every=interval(self.save_every),
      keep=self.keep,
      keep_best=self.keep_best,
      max_skipped_in_row=self.max_skipped_in_row,
      max_skipped=self.max_skipped,
      failed_save=self.failed_save,  # type: ignore[arg-type]  # LoopConfig judges it
      peer_seconds=self.peer_seconds,
    )


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
  """One fine-tuning or distillation run, resolved.

  `optim.schedule` is multiplied with `schedule`, which changes once an epoch; the recipes leave the
  former constant.
  """

  about: str = ""
  workdir: str = ""  # folder of the run; a run that is found there goes on
  dry_run: bool = False  # show what would be trained, trace the step, allocate nothing, and end
  compile_cache: str = "auto"  # folder of compiled programs; auto: on accelerators alone
  # weights that a new run begins with: a file, a folder, a name of mobile_jax.MODELS, or empty;
  # they bring their own network, of which --model changes dropout, compute and the training of mel
  init: str = ""
  fold: str = ""  # the part that is left out, of a set with folds; "all": each in turn
  teacher: str = ""  # logits to distil from: a folder of ours, or the authors' .npy or .pt
  teacher_ids: str = ""  # of a .npy or .pt: the dictionary from ids to rows (.pkl), or meta.csv
  model: Config = SIZES["mn10"]
  # train the classifier alone, on the network in inference mode: no statistic moves, nothing is
  # dropped; its layers are those whose shapes go by the number of classes
  frozen: bool = False
  # `source` is one NAME=PATH of a labelled set: a name of pipelines.sets.SETS, such as esc50,
  # audioset, folder or table
  data: DataConfig = DataConfig(source=NO_SOURCE, sample_rate=SAMPLE_RATE, crop="single")
  # validate and test on whole recordings, one at a time on each device, in place of clips; zeros
  # follow those that are too short for the network
  whole: bool = False
  augment: AugmentConfig = AugmentConfig()
  distil: DistilConfig = DistilConfig()
  temperature: TemperatureConfig = TemperatureConfig()
  # share of a batch in the norms' running statistics; none: the network's own (MN, DyMN: 0.01),
  # too little for runs of a few hundred steps from random weights
  norm_momentum: float | None = None
  optim: OptimConfig = OptimConfig(schedule="constant", warmup_steps=0, weight_decay=0.0)
  schedule: EpochFactor = EpochFactor()
  mesh: MeshConfig = MeshConfig()
  loop: EpochLoopConfig = EpochLoopConfig()
  select: SelectConfig = SelectConfig()
