"""Named scaling studies: `python -m experiments.scaling --config NAME --source DATA --out DIR`."""

from __future__ import annotations

import dataclasses
from typing import Literal

from dasheng_jax.config import SIZES as PUBLISHED
from dasheng_jax.config import DecoderConfig, EncoderConfig
from experiments.configs.pretrain import NO_SOURCE


@dataclasses.dataclass(frozen=True)
class Size:
  """One model of a study.

  Attributes:
    encoder: its shape; positions and all that is no shape come from the recipe.
    decoder: its shape.
    peak_lr: peak learning rate; 0: the recipe's.
    remat: what the backward pass recomputes; empty: as the recipe says.
  """

  encoder: EncoderConfig
  decoder: DecoderConfig
  peak_lr: float = 0.0
  remat: str = ""


def _narrow(width: int, depth: int, heads: int) -> Size:
  """A model for minutes on two cores; the peak rate falls with the width: 2e-3 at 96."""
  return Size(EncoderConfig(width, depth, heads), DecoderConfig(64, 2, 4), 0.192 / width)


def _flat(width: int) -> Size:
  """Four layers whatever the width, heads of 32: nothing but the width grows; 1e-3 at 128."""
  return Size(EncoderConfig(width, 4, width // 32), DecoderConfig(64, 2, 4), 0.128 / width)


def _published(name: str, remat: str = "") -> Size:
  return Size(PUBLISHED[name].encoder, PUBLISHED[name].decoder, remat=remat)


SIZES: dict[str, Size] = {
  "w32": _flat(32),
  "w64": _flat(64),
  "w128": _flat(128),
  "w48": _narrow(48, 4, 3),
  "w96": _narrow(96, 5, 3),
  "w192": _narrow(192, 6, 6),
  "dasheng_micro": _published("dasheng_micro"),
  "dasheng_mini": _published("dasheng_mini"),
  "dasheng_small": _published("dasheng_small"),
  "dasheng_base": _published("dasheng_base"),
  "dasheng_0_6b": _published("dasheng_0_6b", "block"),
  "dasheng_1_2b": _published("dasheng_1_2b", "block"),
}


@dataclasses.dataclass(frozen=True)
class ScalingConfig:
  """A grid of pre-training runs; what stands behind `--` is added to every one of them."""

  about: str = ""
  recipe: str = "hour"  # named configuration of pretrain that every run is made of
  sizes: tuple[str, ...] = ("w32", "w64", "w128")  # names of experiments.configs.scaling.SIZES
  shares: tuple[float, ...] = (0.0625, 0.25, 1.0)  # of the audio of training, nested
  hours: tuple[float, ...] = ()  # amounts of audio in place of shares
  steps: tuple[int, ...] = (600,)  # lengths; each is a run with a schedule of its own
  seeds: tuple[int, ...] = (0,)  # of the runs; each also draws shares of its own
  warmup: float = 0.2  # share of the steps in which the learning rate rises
  source: tuple[str, ...] = NO_SOURCE  # as --data.source of pretrain
  weights: tuple[float, ...] = ()  # as --data.weights of pretrain
  holdout: float = 0.1  # share of the recordings that no run trains on; the loss is theirs
  tasks: tuple[str, ...] = ()  # NAME=FOLDER, or synthetic: k-NN accuracy of every encoder
  k: int = 10  # neighbours that vote
  out: str = ""  # folder of the study; what is finished there is not run again
  launch: Literal["here", "cluster"] = "here"  # run, or print a command for each run and end
  collect: bool = False  # run nothing: evaluate the runs that are finished in the folder
  # devices of one run of a cluster, as --topology of plan, for the hours that are told
  topology: str = ""
  mfu: float = 0.4  # share of the devices' peak that these hours assume
  parameters: Literal["all", "encoder"] = "all"  # what the size of a model counts in the laws
  resamples: int = 400  # of the bootstrap; 0 leaves intervals out
  confidence: float = 0.9  # of intervals and bands
  # more flags of every run, behind --
  more: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})


STUDIES: dict[str, ScalingConfig] = {
  "hour": ScalingConfig(about="three sizes x three amounts of an hour of audio, on two cores"),
  "demo": ScalingConfig(
    about="two sizes x two amounts of the embedded corpus, in a few minutes",
    recipe="demo",
    sizes=("w48", "w96"),
    shares=(0.1, 1.0),
    steps=(100,),
    source=("synthetic:400",),
  ),
  "dasheng": ScalingConfig(
    about="the published sizes and recipe, for a cluster (--launch cluster)",
    recipe="dasheng_base",
    sizes=("dasheng_base", "dasheng_0_6b", "dasheng_1_2b"),
    steps=(1_500_000,),
    warmup=0.03,
    holdout=0.001,
    launch="cluster",
  ),
}
