"""Configurations of the scene models: CP-Mobile and CP-ResNet, their tables and front ends.

Reference text of the scene models, sections 1 to 3; DCASE 2023 task 1, "Distilling the Knowledge of
Transformers and CNNs with CP-Mobile" (CP-Mobile), and Koutini et al. 2021, "Receptive Field
Regularization Techniques for Audio Classification and Tagging" (CP-ResNet).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, NamedTuple

from dasheng_jax.errors import ConfigError
from mobile_jax.config import ComputeConfig, make_divisible
from pipelines.kaldi_mel import KaldiMelConfig

_PLAIN = ComputeConfig()
SECONDS = 1.0  # of a clip that the scene models are trained on
SCENES = (
  *("airport", "bus", "metro", "metro_station", "park"),
  *("public_square", "shopping_mall", "street_pedestrian", "street_traffic", "tram"),
)
# Long windows, 256 bands; masks in frequency alone, and one for the whole batch, as the pinned
# library of the released code has it.
CP_MOBILE_MEL = KaldiMelConfig(
  n_fft=4096,
  win_length=3072,
  hop_length=500,
  mel_bins=256,
  fmin_range=1,
  fmax_range=1000,
  freq_mask=48,
  mask_sharing="batch",
)
CP_RESNET_MEL = dataclasses.replace(CP_MOBILE_MEL, hop_length=750)


class CPBlockShape(NamedTuple):
  """One block of CP-Mobile. number counts from 1; stride is (frequency, time)."""

  number: int
  channels: int
  expanded: int
  out: int
  stride: tuple[int, int]

  @property
  def shortcut(self) -> Literal["none", "identity", "pool"]:
    """Where the width stays, the input is added, averaged down where the block strides."""
    if self.channels != self.out:
      return "none"
    return "identity" if self.stride == (1, 1) else "pool"


class _Scene:
  """What the scene models share. They have no dropout."""

  dropout: ClassVar[float] = 0.0
  least_frames: ClassVar[int] = 1

  def with_compute(self, **changes):
    """The same model computed in another way, e.g. `cfg.with_compute(dtype="bfloat16")`."""
    compute = dataclasses.replace(self.compute, **changes)  # type: ignore[attr-defined]
    return dataclasses.replace(self, compute=compute)  # type: ignore[type-var]


@dataclasses.dataclass(frozen=True)
class CPMobileConfig(_Scene):
  """CP-Mobile (reference text, section 2).

  Args:
    classes: outputs.
    base_channels: of the stem and the first stage, before rounding to a multiple of 8.
    multiplier: from stage to stage; the second and third stage are as wide as the rounded base
      times its first and second power.
    expansion: of a block's input inside the block.
    blocks_per_stage: of the three stages.
    halved: numbers of the blocks that halve frequency and time.
    halved_frequency: of those that halve frequency alone.
    objective: whether a clip has one class or tags, which no weight tells.
  """

  classes: int = 10
  base_channels: int = 32
  multiplier: float = 2.3
  expansion: float = 3.0
  blocks_per_stage: tuple[int, int, int] = (3, 2, 1)
  halved: tuple[int, ...] = (2,)
  halved_frequency: tuple[int, ...] = (4,)
  mel: KaldiMelConfig = CP_MOBILE_MEL
  compute: ComputeConfig = _PLAIN
  objective: Literal["classes", "tags"] = "classes"

  def __post_init__(self):
    _positive(self, "classes", "base_channels", "multiplier", "expansion")
    if min(self.blocks_per_stage) < 1:
      raise ConfigError(f"blocks_per_stage is {self.blocks_per_stage}; give at least 1 to each")
    known = range(1, sum(self.blocks_per_stage) + 1)
    numbers = (*self.halved, *self.halved_frequency)
    if set(numbers) - set(known) or len(set(numbers)) != len(numbers):
      raise ConfigError(
        f"halved is {self.halved} and halved_frequency {self.halved_frequency}; give numbers of "
        f"blocks, 1 to {known[-1]}, each once"
      )

  @property
  def base(self) -> int:
    """Channels of the stem."""
    return make_divisible(self.base_channels)

  @property
  def stages(self) -> tuple[int, int, int]:
    """Channels of the three stages."""
    first, second, third = (make_divisible(self.base * self.multiplier**i) for i in range(3))
    return first, second, third

  @property
  def blocks(self) -> tuple[CPBlockShape, ...]:
    """The blocks, first to last."""
    strides = dict.fromkeys(self.halved, (2, 2)) | dict.fromkeys(self.halved_frequency, (2, 1))
    found: list[CPBlockShape] = []
    channels = self.base
    for out, count in zip(self.stages, self.blocks_per_stage, strict=True):
      for _ in range(count):
        number = len(found) + 1
        expanded = make_divisible(channels * self.expansion)
        stride = strides.get(number, (1, 1))
        found.append(CPBlockShape(number, channels, expanded, out, stride))
        channels = out
    return tuple(found)

  @property
  def features(self) -> int:
    """Channels of the last map, whose mean are the pooled features."""
    return self.stages[-1]


class BasicBlockShape(NamedTuple):
  """One block of CP-ResNet: two convolutions, and what of the map is halved behind it."""

  stage: int
  number: int
  channels: int
  out: int
  kernels: tuple[int, int]
  groups: int
  pooled: bool


@dataclasses.dataclass(frozen=True)
class CPResNetConfig(_Scene):
  """CP-ResNet (reference text, section 3).

  Args:
    classes: outputs.
    base_channels: of the first stage; the second has twice, the third four times as many, less
      `cut_second` and `cut_third`.
    rho: the receptive field: how many of the 3 x 3 kernels are 1 x 1.
    blocks_per_stage: of the three stages.
    groups: of the stages' convolutions, shortcuts included.
    pools: positions in the first stage behind which frequency is halved; 0 is the 2 x 2 pool
      before it.
    objective: as for CP-Mobile.
  """

  classes: int = 10
  base_channels: int = 32
  rho: int = 8
  blocks_per_stage: tuple[int, int, int] = (2, 1, 1)
  groups: tuple[int, int, int] = (1, 2, 1)
  cut_second: int = 0
  cut_third: int = 36
  pools: tuple[int, ...] = (0, 1, 2, 4)
  mel: KaldiMelConfig = CP_RESNET_MEL
  compute: ComputeConfig = _PLAIN
  objective: Literal["classes", "tags"] = "classes"

  # Fewer leave nothing behind the first convolution and its pool.
  least_frames: ClassVar[int] = 5

  def __post_init__(self):
    _positive(self, "classes", "base_channels", "rho")
    if set(self.blocks_per_stage) - {1, 2}:
      raise ConfigError(f"blocks_per_stage is {self.blocks_per_stage}; give 1 or 2 to each stage")
    if min(self.groups) < 1:
      raise ConfigError(f"groups is {self.groups}; give at least 1 to each stage")
    for block in self.blocks:
      if block.out < 1 or block.channels % block.groups or block.out % block.groups:
        raise ConfigError(
          f"stage {block.stage} maps {block.channels} to {block.out} channels in {block.groups} "
          "groups; change base_channels, the cuts or groups"
        )

  @property
  def stages(self) -> tuple[int, int, int]:
    """Channels of the three stages."""
    base = self.base_channels
    return base, 2 * base - self.cut_second, 4 * base - self.cut_third

  @property
  def blocks(self) -> tuple[BasicBlockShape, ...]:
    """The blocks, first to last."""
    reach = self.rho - 4
    found: list[BasicBlockShape] = []
    channels = self.base_channels
    rows = zip(self.stages, self.blocks_per_stage, self.groups, strict=True)
    for stage, (out, count, groups) in enumerate(rows, 1):
      for number in range(1, count + 1):
        pooled = stage == 1 and number in self.pools
        kernels = _kernels(stage, number, reach)
        found.append(BasicBlockShape(stage, number, channels, out, kernels, groups, pooled))
        channels = out
    return tuple(found)

  @property
  def features(self) -> int:
    """Channels of the last map, whose mean are the pooled features."""
    return self.stages[-1]


# (stage, block): from which reach on each of its convolutions is 3 x 3; before it, it is 1 x 1.
_NEVER = 10**9
_REACHES: dict[tuple[int, int], tuple[int, int]] = {
  (1, 1): (-_NEVER, _NEVER),
  (1, 2): (-2, -1),
  (2, 1): (0, 1),
  (2, 2): (2, 3),
  (3, 1): (4, 5),
  (3, 2): (6, 7),
}


def _kernels(stage: int, number: int, reach: int) -> tuple[int, int]:
  first, second = _REACHES[stage, number]
  return (3 if reach >= first else 1), (3 if reach >= second else 1)


def _positive(cfg: CPMobileConfig | CPResNetConfig, *names: str) -> None:
  for name in names:
    if not getattr(cfg, name) > 0:
      raise ConfigError(f"{name} is {getattr(cfg, name)}; it must be more than 0")
  if cfg.objective not in ("classes", "tags"):
    raise ConfigError(f"objective is {cfg.objective!r}; choose from classes, tags")


# By the channels of the paper's tables: the student, and the teachers of growing size.
SCENE_SIZES: dict[str, CPMobileConfig | CPResNetConfig] = {
  **{f"cp_mobile_{n}": CPMobileConfig(base_channels=n) for n in (32, 64, 96, 184, 264)},
  **{f"cp_resnet_{n}": CPResNetConfig(base_channels=n) for n in (32, 56, 88, 168, 232)},
}
