"""The transfer study: fourteen tasks, how each is cut and scored, and the published results.

    python -m experiments.transfer --config esc50 --mode frozen --init WEIGHTS \
      --data.source esc50=FOLDER --fold all --workdir runs/esc50_frozen

One recipe for all: Adam at 1e-4 without schedule, batches of 64, at most 150 epochs, an end after
15 without gain, the mean of the four best states, no augmentation. Training clips are cut to pieces
that inherit the label where they are long; recordings are scored whole, one at a time. Cross
entropy where clips have one class, of the mean over time of the logits; binary cross entropy where
they have tags, of the mean over time of the probabilities, in networks that decide at every step.

Source: reference text of the weakly supervised taggers, section 4.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple, TypeAlias

from experiments.configs.finetune import adam
from experiments.configs.supervised import NO_SOURCE, EpochLoopConfig, SupervisedConfig
from experiments.supervised.recipe import NO_AUGMENT
from experiments.training.epoch_factor import CONSTANT
from experiments.training.selection import SelectConfig
from mobile_jax.decision_config import DECISION_SIZES
from pipelines import DataConfig

Mode: TypeAlias = Literal["scratch", "frozen", "finetune"]
MODES: tuple[Mode, ...] = ("scratch", "frozen", "finetune")
NETWORKS = ("mobilenet_v2", "efficientnet_b0")
TRIALS = 4


class Published(NamedTuple):
  """Percent, in the order of `MODES`: of MobileNetV2 and of EfficientNet-B0."""

  mobilenet_v2: tuple[float, float, float]
  efficientnet_b0: tuple[float, float, float]


class TransferTask(NamedTuple):
  """A row of the study.

  kind: of sound. metric: the figure that is reported and by which states are chosen. seconds: of a
  training clip. cut: whether longer recordings are cut to pieces of this length; else they end
  there. folds: whether each fold is left out in turn. grid: seconds, of whole recordings, see
  `DataConfig.grid_seconds`; 0 where all have one length, else no recording may end up shorter than
  the 32 frames of EfficientNet, and one of full length stays as it is. trials: seeds. published:
  None for sets that are not the study's.
  """

  kind: str
  metric: str
  seconds: float
  cut: bool = False
  folds: bool = False
  grid: float = 0.25
  trials: int = TRIALS
  published: Published | None = None


MODEL = DECISION_SIZES["mobilenet_v2"]  # where neither weights nor a name bring another network

# By the name of the set, which `pipelines.sets` reads.
TASKS: dict[str, TransferTask] = {
  "msos": TransferTask(
    "sound",
    "accuracy",
    5.0,
    grid=0.0,
    published=Published((56.85, 90.40, 93.55), (58.80, 89.80, 93.75)),
  ),
  "nsynth": TransferTask(
    "music",
    "accuracy",
    4.0,
    grid=0.0,
    published=Published((33.56, 66.50, 79.93), (78.82, 64.65, 77.92)),
  ),
  "urbansound8k": TransferTask(
    "sound",
    "accuracy",
    4.0,
    folds=True,
    grid=0.4,
    published=Published((74.77, 83.27, 84.29), (75.03, 83.00, 85.22)),
  ),
  "ravdess": TransferTask(
    "emotion",
    "accuracy",
    5.3,
    folds=True,
    published=Published((46.54, 50.90, 66.66), (11.66, 48.68, 70.00)),
  ),
  "esc50": TransferTask(
    "sound",
    "accuracy",
    5.0,
    folds=True,
    grid=0.0,
    published=Published((59.90, 92.20, 93.70), (58.17, 92.10, 94.48)),
  ),
  "fsdkaggle2018": TransferTask(
    "sound",
    "mAP_at_3",
    10.0,
    cut=True,
    published=Published((85.60, 87.31, 94.43), (78.96, 91.02, 91.12)),
  ),
  "fsdkaggle2019_curated": TransferTask(
    "sound",
    "lwlrap",
    4.0,
    cut=True,
    published=Published((56.16, 68.84, 72.96), (54.95, 67.86, 72.92)),
  ),
  "fsdkaggle2019_noisy": TransferTask(
    "sound",
    "lwlrap",
    4.0,
    cut=True,
    published=Published((38.17, 53.57, 49.97), (38.46, 54.89, 49.93)),
  ),
  "fsd50k": TransferTask(
    "sound",
    "mAP",
    10.0,
    cut=True,
    published=Published((38.03, 44.41, 54.62), (38.24, 44.66, 57.20)),
  ),
  "voxceleb1": TransferTask(
    "speech",
    "accuracy",
    4.0,
    cut=True,
    grid=0.5,
    published=Published((44.86, 19.02, 48.43), (62.23, 13.54, 54.71)),
  ),
  "voxlingua107": TransferTask(
    "speech",
    "error_rate",
    4.0,
    cut=True,
    trials=1,
    published=Published((19.83, 92.85, 26.17), (19.71, 93.41, 20.39)),
  ),
  "fluent_speech_commands": TransferTask(
    "speech",
    "accuracy",
    4.0,
    cut=True,
    published=Published((99.12, 17.37, 99.47), (97.94, 13.58, 98.04)),
  ),
  "speech_commands_v1": TransferTask(
    "speech",
    "accuracy",
    1.0,
    grid=0.5,
    published=Published((97.62, 69.28, 98.27), (97.75, 68.76, 98.30)),
  ),
  "speech_commands_v2": TransferTask(
    "speech",
    "accuracy",
    1.0,
    grid=0.5,
    published=Published((96.18, 49.13, 96.81), (96.35, 42.85, 96.86)),
  ),
}
# Others on which the same recipe can be tried.
MORE: dict[str, TransferTask] = {
  "esc10": TASKS["esc50"]._replace(published=None),
  "spoken_digits": TransferTask("speech", "accuracy", 1.0, folds=True, grid=0.4),
  "speech_commands_v1_30": TASKS["speech_commands_v1"]._replace(published=None),
}


@dataclasses.dataclass(frozen=True)
class TransferConfig(SupervisedConfig):
  """One cell of the study: a set, a network, a mode.

  `init` names the network and its weights; "scratch" takes the network alone. Of a network that
  `init` or `student` names, `model` changes dropout and compute.
  """

  # "scratch": random weights, all are trained; "frozen": the classifier alone is trained, on the
  # weights of --init; "finetune": all are trained, from the weights of --init
  mode: Mode = "finetune"
  # the network by name, such as efficientnet_b0 or mn04_as; empty: that of --init, or else --model
  student: str = ""


def _recipe(name: str, task: TransferTask) -> TransferConfig:
  figure = task.metric.replace("_", " ")
  about = f"{name}: {task.kind}, {figure}" + (", over folds" if task.folds else "")
  return TransferConfig(
    about=about,
    model=MODEL,
    data=DataConfig(
      source=NO_SOURCE,
      sample_rate=MODEL.mel.sample_rate,
      crop_seconds=task.seconds,
      crop="pieces" if task.cut else "first",
      grid_seconds=task.grid,
    ),
    whole=True,
    augment=NO_AUGMENT,
    optim=adam(1e-4),
    schedule=CONSTANT,
    loop=EpochLoopConfig(epochs=150, batch_size=64),
    select=SelectConfig(metric=task.metric, patience=15, average=4),
  )


EXPERIMENTS: dict[str, TransferConfig] = {
  name: _recipe(name, task) for name, task in {**TASKS, **MORE}.items()
}
