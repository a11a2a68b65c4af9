"""Named distillation runs: AudioSet for every size, the ablations of the DyMN paper, own sets.

    for name in $(python -m experiments.distill --names ablation); do
      python -m experiments.distill --config $name --data.source audioset=... --workdir runs/$name
    done

Source: reference text of MN and DyMN, sections 10.1 and 13.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from experiments.configs.finetune import SCHEDULE, adam, labelled_data
from experiments.configs.supervised import EpochLoopConfig, SupervisedConfig
from experiments.supervised.recipe import ANNEALED, AugmentConfig, DistilConfig, TemperatureConfig
from experiments.training.epoch_factor import EpochFactor
from mobile_jax.config import SIZES, DyMNConfig, MNConfig

# The peak that the released script has for every size, and those of the DyMN paper.
_PEAK = {"dymn04": 2e-3, "dymn10": 1e-3, "dymn20": 5e-4}
_DEFAULT_PEAK = 8e-4
IMAGENET_SIZES = ("mn04", "mn05", "mn10", "mn20", "mn30", "mn40", "dymn04", "dymn10", "dymn20")


def _audioset(size: str) -> SupervisedConfig:
  """200 epochs of 100,000 clips, rare classes more often, nine tenths of the loss the teacher's."""
  model = SIZES[size]
  dynamic = isinstance(model, DyMNConfig)
  return SupervisedConfig(
    about=f"{size} on AudioSet with stored teacher logits, as released",
    init=f"{size}_im" if size in IMAGENET_SIZES else "",
    model=model,
    data=labelled_data(10.0, "first", order="importance", samples_per_epoch=100_000),
    augment=AugmentConfig(gain=0, roll=0, wave_mixup=0.0, mixup=0.3),
    distil=DistilConfig(label_weight=0.1),
    temperature=ANNEALED if dynamic else TemperatureConfig(),
    optim=adam(_PEAK.get(size, _DEFAULT_PEAK)),
    schedule=EpochFactor(),
    loop=EpochLoopConfig(epochs=200, batch_size=120, log_every=50),
  )


class Ablation(NamedTuple):
  """One cell of the DyMN paper's tables II to XI.

  Attributes:
    table: its number there.
    variant: what is changed, in the paper's words or near them.
    paper: mean average precision in percent.
    model: the network.
    temperature: of the dynamic convolutions.
  """

  table: str
  variant: str
  paper: float
  model: MNConfig | DyMNConfig
  temperature: TemperatureConfig = ANNEALED


_FULL = DyMNConfig()
_MN = MNConfig()


def _dymn(**changes) -> DyMNConfig:
  return dataclasses.replace(_FULL, **changes)


def _constant(value: float) -> TemperatureConfig:
  return TemperatureConfig(start=value, end=value)


_STATIC = {"convs": (), "relus": ()}

ABLATIONS: dict[str, Ablation] = {
  "ii_full": Ablation("II", "full", 47.5, _dymn()),
  "ii_mn": Ablation("II", "MN", 45.8, _MN),
  "ii_mn_static": Ablation("II", "MN static", 44.4, dataclasses.replace(_MN, se="none")),
  "ii_no_ca": Ablation("II", "-CA", 46.9, _dymn(attention="none")),
  "ii_no_dyrelu": Ablation("II", "-DyReLU", 46.9, _dymn(relus=())),
  "ii_no_dyconv": Ablation("II", "-DyConv", 47.2, _dymn(convs=())),
  "ii_no_ca_dyrelu": Ablation("II", "-CA -DyReLU", 46.1, _dymn(attention="none", relus=())),
  "ii_no_ca_dyconv": Ablation("II", "-CA -DyConv", 46.6, _dymn(attention="none", convs=())),
  "ii_no_dyrelu_dyconv": Ablation("II", "-DyReLU -DyConv", 46.7, _dymn(**_STATIC)),
  "iii_first": Ablation("III", "first five dynamic", 46.3, _dymn(dynamic="first")),
  "iii_middle": Ablation("III", "middle five dynamic", 46.2, _dymn(dynamic="middle")),
  "iii_last": Ablation("III", "last five dynamic", 46.9, _dymn(dynamic="last")),
  "iii_replace_se": Ablation("III", "replace SE", 47.1, _dymn(dynamic="replace_se")),
  "iv_dyconv_2": Ablation("IV", "DyConv at 2 alone", 47.0, _dymn(convs=("depthwise",))),
  "iv_dyrelu_1": Ablation("IV", "DyReLU at 1", 47.2, _dymn(relus=("expand",))),
  "iv_dyrelu_2_1": Ablation("IV", "DyReLU at 2+1", 47.4, _dymn(relus=("expand", "depthwise"))),
  "iv_dyrelu_2_3": Ablation("IV", "DyReLU at 2+3", 47.2, _dymn(relus=("depthwise", "project"))),
  "v_ca": Ablation("V", "coordinate attention", 46.7, _dymn(**_STATIC)),
  "v_triplet": Ablation("V", "triplet attention", 46.1, _dymn(attention="triplet", **_STATIC)),
  "v_srm": Ablation("V", "style recalibration", 45.9, _dymn(attention="srm", **_STATIC)),
  "v_grn": Ablation("V", "global response norm", 45.3, _dymn(attention="grn", **_STATIC)),
  "v_se": Ablation("V", "squeeze-and-excitation", 45.1, _dymn(attention="se", **_STATIC)),
  "v_cbam": Ablation("V", "CBAM", 44.6, _dymn(attention="cbam", **_STATIC)),
  "v_gc": Ablation("V", "global context", 44.2, _dymn(attention="gc", **_STATIC)),
  "vi_frequency": Ablation("VI", "frequency alone", 47.2, _dymn(attention_axes="frequency")),
  "vi_time": Ablation("VI", "time alone", 47.2, _dymn(attention_axes="time")),
  "vii_k2": Ablation("VII", "K 2", 47.4, _dymn(kernels=2)),
  "vii_k4": Ablation("VII", "K 4", 47.5, _dymn(kernels=4)),
  "vii_k6": Ablation("VII", "K 6", 47.5, _dymn(kernels=6)),
  "viii_annealed": Ablation("VIII", "annealed", 47.5, _dymn()),
  "viii_1": Ablation("VIII", "temperature 1", 47.3, _dymn(), _constant(1.0)),
  "viii_10": Ablation("VIII", "temperature 10", 47.5, _dymn(), _constant(10.0)),
  "viii_30": Ablation("VIII", "temperature 30", 47.4, _dymn(), _constant(30.0)),
  "ix_m1": Ablation("IX", "M 1", 47.0, _dymn(pieces=1)),
  "ix_m2": Ablation("IX", "M 2", 47.5, _dymn(pieces=2)),
  "ix_m3": Ablation("IX", "M 3", 47.5, _dymn(pieces=3)),
  "x_not_shared": Ablation("X", "context not shared", 47.2, _dymn(context="per_use")),
  "x_separate": Ablation("X", "separate sequences", 47.4, _dymn(sequences="separate")),
  "x_concatenated": Ablation("X", "concatenated", 47.4, _dymn(sequences="concatenated")),
  "xi_r4": Ablation("XI", "r 4", 47.5, _dymn(context_ratio=4)),
  "xi_r8": Ablation("XI", "r 8", 47.3, _dymn(context_ratio=8)),
  "xi_r16": Ablation("XI", "r 16", 47.1, _dymn(context_ratio=16)),
  "xi_min16": Ablation("XI", "min 16", 47.3, _dymn(min_context=16)),
  "xi_min32": Ablation("XI", "min 32", 47.5, _dymn(min_context=32)),
  "xi_min64": Ablation("XI", "min 64", 47.4, _dymn(min_context=64)),
  "xi_max64": Ablation("XI", "max 64", 47.2, _dymn(max_context=64)),
  "xi_max128": Ablation("XI", "max 128", 47.5, _dymn(max_context=128)),
  "xi_max256": Ablation("XI", "max 256", 47.5, _dymn(max_context=256)),
}


def _ablation(cell: Ablation) -> SupervisedConfig:
  """The recipe of dymn10 without ImageNet weights, with one thing changed."""
  dynamic = isinstance(cell.model, DyMNConfig)
  return dataclasses.replace(
    _audioset("dymn10"),
    about=f"DyMN paper, table {cell.table}: {cell.variant}, mAP {cell.paper}",
    init="",
    model=cell.model,
    temperature=cell.temperature if dynamic else TemperatureConfig(),
  )


EXPERIMENTS: dict[str, SupervisedConfig] = {
  **{f"audioset_kd_{size}": _audioset(size) for size in SIZES},
  **{f"ablation_{name}": _ablation(cell) for name, cell in ABLATIONS.items()},
  "own": SupervisedConfig(
    about="a small network on your own labelled set, from any teacher's stored logits",
    model=SIZES["mn01"],
    data=labelled_data(10.0, "single"),
    augment=AugmentConfig(wave_mixup=0.0),
    distil=DistilConfig(label_weight=0.1, temperature=2.0),
    optim=adam(1e-3),
    schedule=SCHEDULE,
    loop=EpochLoopConfig(epochs=80, batch_size=64),
  ),
  "words": SupervisedConfig(
    about="a small network for words and other sounds of a second, from stored logits",
    model=SIZES["mn01"],
    data=labelled_data(1.0, "single"),
    augment=AugmentConfig(wave_mixup=0.0),
    distil=DistilConfig(label_weight=0.1, temperature=2.0),
    optim=adam(2e-3),
    norm_momentum=0.1,
    schedule=EpochFactor(warmup=2, ramp_start=10, ramp_length=20, last=0.01),
    loop=EpochLoopConfig(epochs=30, batch_size=64, validate_every=10, save_every=10),
  ),
}
