"""Named pre-training runs. `python -m experiments.pretrain --config NAME --workdir DIR`."""

from __future__ import annotations

import dataclasses

from dasheng_jax.config import SIZES, DashengConfig, DecoderConfig, EncoderConfig
from experiments.evaluation.embed import Pooling
from experiments.training.mesh import MeshConfig
from experiments.training.optim import OptimConfig
from experiments.training.run import LoopConfig
from pipelines import DataConfig
from pipelines.mel import DASHENG_MEL

# Runs that only make sense on someone's own audio name none, so that nobody trains for a week on
# the synthetic corpus because of a forgotten flag.
NO_SOURCE = ("unset",)


@dataclasses.dataclass(frozen=True)
class KnnConfig:
  """k-NN accuracy of the initial and the final encoder, and of a rival that needs no training."""

  tasks: tuple[str, ...] = ()  # NAME=FOLDER (spoken_digits, esc10, esc50), or synthetic
  pooling: Pooling = "mean"  # of the embeddings over time
  k: int = 10  # neighbours that vote
  rivals: bool = True  # also the mean and deviation of the log-mel


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
  """One pre-training run, resolved."""

  about: str = ""
  workdir: str = ""  # folder of the run; a run that is found there goes on
  dry_run: bool = False  # show the parameter table, trace the step, allocate nothing, and end
  # folder of compiled programs, which make the next start quick; auto: in the user's cache folder
  # on accelerators, none on a CPU
  compile_cache: str = "auto"
  model: DashengConfig = DashengConfig()
  data: DataConfig = DataConfig()
  optim: OptimConfig = OptimConfig()
  mesh: MeshConfig = MeshConfig()
  loop: LoopConfig = LoopConfig()
  knn: KnnConfig = KnnConfig()


def _published(size: str, about: str, remat: str = "none") -> PretrainConfig:
  """The recipe of the released configuration files: 100 epochs of 15,000 steps, in bfloat16."""
  return PretrainConfig(
    about=about,
    model=SIZES[size].with_compute(dtype="bfloat16", remat=remat),
    data=DataConfig(source=NO_SOURCE, holdout=0.001),
  )


# What lets a model of under a million parameters learn in minutes (docs/pretraining_hour.md has the
# figures). Crops of 0.64 s: spoken digits last half a second, so hardly any token is padding, and
# every step shows more sounds. As many positions as a crop has patches: longer clips are then
# embedded in chunks of the length that was trained. Half of the patches hidden, one by one: of a
# digit's ten patches the published three quarters in pairs leave one pair to guess from. Padding
# is left out of the loss and of the attention, a clip does not depend on its neighbours, and levels
# 60 dB below its maximum are noise floor.
_SMALL_PATCHES = 16
_SMALL_DATA = DataConfig(
  source=NO_SOURCE,
  crop_seconds=0.04 * _SMALL_PATCHES,
  crop="random",
  cache="memory",
  holdout=0.05,
)
_SMALL_MEL = dataclasses.replace(DASHENG_MEL, clamp="sample", top_db=60.0)


def _small(encoder: EncoderConfig, decoder: DecoderConfig) -> DashengConfig:
  # Positions that start as sines lower the loss of a run of a few hundred steps, and the released
  # 0.02 of the decoder's weights starves a narrow one.
  return DashengConfig(
    encoder=dataclasses.replace(encoder, positions=_SMALL_PATCHES),
    decoder=decoder,
    mel=_SMALL_MEL,
    mask_ratio=0.5,
    mask_group=1,
    padding="ignore",
    position_init="sincos",
    decoder_init="xavier",
  )


EXPERIMENTS: dict[str, PretrainConfig] = {
  "dasheng_base": _published("dasheng_base", "86 M parameters, the published recipe"),
  "dasheng_0_6b": _published("dasheng_0_6b", "630 M parameters, as released", "block"),
  "dasheng_1_2b": _published("dasheng_1_2b", "1.2 B parameters, the published recipe", "block"),
  "hour": PretrainConfig(
    about="a small encoder from an hour of mixed audio, on two cores in ten minutes",
    model=_small(EncoderConfig(128, 4, 4), DecoderConfig(64, 2, 4)),
    data=_SMALL_DATA,
    optim=OptimConfig(
      peak_lr=1e-3, schedule="cosine", warmup_steps=100, final_fraction=0.01, beta2=0.95
    ),
    loop=LoopConfig(steps=3600, batch_size=64, log_every=20, validate_every=600, save_every=1200),
  ),
  "demo": PretrainConfig(
    about="the embedded corpus, from nothing to a better encoder in a minute or two",
    model=_small(EncoderConfig(96, 3, 3), DecoderConfig(64, 1, 4)),
    data=dataclasses.replace(_SMALL_DATA, source=("synthetic:400",)),
    optim=OptimConfig(
      peak_lr=2e-3, schedule="cosine", warmup_steps=50, final_fraction=0.01, beta2=0.95
    ),
    loop=LoopConfig(steps=900, batch_size=64, log_every=5, validate_every=150, save_every=300),
    knn=KnnConfig(tasks=("synthetic",)),
  ),
  "debug": PretrainConfig(
    about="ten steps on synthetic audio: is everything installed?",
    model=SIZES["dasheng_micro"],
    data=DataConfig(source=("synthetic:32",), crop_seconds=1.0, holdout=0.2, cache="memory"),
    optim=OptimConfig(warmup_steps=2),
    loop=LoopConfig(steps=10, batch_size=8, log_every=1, validate_every=5, save_every=5),
  ),
}
