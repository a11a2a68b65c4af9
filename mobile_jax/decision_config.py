"""Configurations of the taggers with decision-level pooling: MobileNetV2 and EfficientNet-B0.

Reference text of the weakly supervised taggers, section 2; "An empirical study of weakly supervised
audio tagging embeddings for general audio representations" (Dinkel et al. 2022). The bodies are
those of arXiv 1801.04381 and arXiv 1905.11946 on one channel.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

from dasheng_jax.errors import ConfigError
from mobile_jax.config import BlockShape, ComputeConfig, check_choices, make_divisible
from pipelines.mel import MelConfig

Objective = Literal["tags", "classes"]
# The released front end: 16 kHz, 64 HTK bands, decibels, clamped 120 dB below the loudest cell of
# the whole batch. clamp="sample" makes clips independent of their neighbours.
DECISION_MEL = MelConfig()
_PLAIN = ComputeConfig()

# expansion, out, repeats, stride: a row per stage at width 1.
_V2_STEM, _V2_LAST = 32, 1280
_V2_STAGES: tuple[tuple[int, int, int, int], ...] = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)
# kernel, stride, expansion, out, repeats.
_B0_STEM, _B0_LAST = 32, 1280
_B0_STAGES: tuple[tuple[int, int, int, int, int], ...] = (
  (3, 1, 1, 16, 1),
  (3, 2, 6, 24, 2),
  (5, 2, 6, 40, 2),
  (3, 2, 6, 80, 3),
  (5, 1, 6, 112, 3),
  (5, 2, 6, 192, 4),
  (3, 1, 6, 320, 1),
)


class _Decision:
  """What both share."""

  def with_compute(self, **changes):
    """The same model computed in another way, e.g. `cfg.with_compute(dtype="bfloat16")`."""
    compute = dataclasses.replace(self.compute, **changes)  # type: ignore[attr-defined]
    return dataclasses.replace(self, compute=compute)  # type: ignore[type-var]

  def _check(self) -> None:
    check_choices(self)
    cfg: MobileNetV2Config | EfficientNetConfig = self  # type: ignore[assignment]
    if not 0 < cfg.width < math.inf:
      raise ConfigError(f"width is {cfg.width}; it must be more than 0 (published: 1)")
    if cfg.classes < 1:
      raise ConfigError(f"classes is {cfg.classes}; a tagger has at least 1")
    if cfg.last is not None and cfg.last < 1:
      raise ConfigError(f"last is {cfg.last}; the last convolution has at least 1 channel")
    if not 0 <= cfg.dropout < 1:
      raise ConfigError(f"dropout is {cfg.dropout}; it must be at least 0 and less than 1")
    narrow = min(cfg.stem, cfg.features, *(block.out for block in cfg.blocks))
    if narrow < 1:
      raise ConfigError(f"width is {cfg.width}; it leaves a layer without channels")
    if cfg.mel.mel_bins < cfg.least_frames:
      raise ConfigError(f"mel.mel_bins is {cfg.mel.mel_bins}; give at least {cfg.least_frames}")


@dataclasses.dataclass(frozen=True)
class MobileNetV2Config(_Decision):
  """MobileNetV2 (reference text, section 2.1).

  Args:
    classes: outputs.
    width: factor on all channel counts; on the last convolution's only above 1.
    last: channels of the last convolution, before the width; None for 1280.
    lineage: "psl" cuts scaled counts off to whole numbers and starts from Xavier's kernels;
      "torchvision" rounds to multiples of 8 and starts from Kaiming's.
    dropout: before the classifier, at every time step.
    objective: "tags" means probabilities over time; "classes" means logits (section 4).
  """

  classes: int = 527
  width: float = 1.0
  last: int | None = None
  lineage: Literal["psl", "torchvision"] = "psl"
  dropout: float = 0.3
  objective: Objective = "tags"
  mel: MelConfig = DECISION_MEL
  compute: ComputeConfig = _PLAIN

  def __post_init__(self):
    self._check()

  def _scaled(self, channels: int, width: float) -> int:
    wide = channels * width
    return int(wide) if self.lineage == "psl" else make_divisible(wide)

  @property
  def stem(self) -> int:
    """Channels of the first convolution."""
    return self._scaled(_V2_STEM, self.width)

  @property
  def features(self) -> int:
    """Channels of the last convolution, whose means are the pooled features."""
    return self._scaled(_V2_LAST if self.last is None else self.last, max(1.0, self.width))

  @property
  def blocks(self) -> tuple[BlockShape, ...]:
    """The 17 blocks, first to last."""
    found: list[BlockShape] = []
    channels = self.stem
    for expansion, plain, repeats, first in _V2_STAGES:
      out = self._scaled(plain, self.width)
      for i in range(repeats):
        number, stride = len(found) + 1, 1 if i else first
        expanded = channels * expansion
        found.append(
          BlockShape(number, channels, 3, expanded, out, False, "relu6", stride, dilation=1)
        )
        channels = out
    return tuple(found)

  @property
  def least_frames(self) -> int:
    """Of a log-mel: any number will do."""
    return 1


class MBConvShape(NamedTuple):
  """One block of EfficientNet. number counts from 1.

  squeezed: channels inside squeeze-and-excitation. padding: zeros before and behind both axes.
  drop: how often a training step leaves the block out.
  """

  number: int
  stage: int
  place: int
  channels: int
  kernel: int
  expanded: int
  squeezed: int
  out: int
  stride: int
  padding: tuple[int, int]
  residual: bool
  drop: float

  @property
  def expands(self) -> bool:
    """The first stage does not, and has no expand convolution."""
    return self.expanded != self.channels


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig(_Decision):
  """EfficientNet-B0 (reference text, section 2.2).

  Args:
    classes: outputs.
    width: factor on all channel counts, rounded to multiples of 8.
    last: channels of the last convolution at any width; None for the lineage's rule: 1280 times the
      width, or in "torchvision" four times the channels of the last block.
    lineage: whose details: see `LINEAGES`.
    image: side in pixels that the padding of "efficientnet_pytorch" is computed for, whatever the
      input's size.
    dropout: before the classifier, at every time step.
    drop_connect: block n of 16 is left out of a training step with (n - 1) / 16 of this chance,
      clip by clip.
    objective: "tags" means probabilities over time; "classes" means logits (section 4).
  """

  classes: int = 527
  width: float = 1.0
  last: int | None = None
  lineage: Literal["efficientnet_pytorch", "torchvision"] = "efficientnet_pytorch"
  image: int = 224
  dropout: float = 0.2
  drop_connect: float = 0.2
  objective: Objective = "tags"
  mel: MelConfig = DECISION_MEL
  compute: ComputeConfig = _PLAIN

  def __post_init__(self):
    if self.image < 32:
      raise ConfigError(f"image is {self.image}; it must be at least 32 (published: 224)")
    if not 0 <= self.drop_connect < 1:
      raise ConfigError(
        f"drop_connect is {self.drop_connect}; it must be at least 0 and less than 1"
      )
    self._check()

  @property
  def details(self) -> Lineage:
    """What the lineage implies."""
    return LINEAGES[self.lineage]

  @property
  def stem(self) -> int:
    """Channels of the first convolution."""
    return make_divisible(_B0_STEM * self.width)

  @property
  def features(self) -> int:
    """Channels of the last convolution, whose means are the pooled features."""
    if self.last is not None:
      return self.last
    if self.lineage == "torchvision":
      return 4 * self.blocks[-1].out
    return make_divisible(_B0_LAST * self.width)

  @property
  def stem_padding(self) -> tuple[int, int]:
    """Zeros before and behind both axes under the first convolution."""
    return self._padding(3, 2, self.image)

  def _padding(self, kernel: int, stride: int, size: int) -> tuple[int, int]:
    if not self.details.fixed_padding:
      return (kernel - 1) // 2, (kernel - 1) // 2
    return same_padding(kernel, stride, size)

  @property
  def blocks(self) -> tuple[MBConvShape, ...]:
    """The 16 blocks, first to last."""
    found: list[MBConvShape] = []
    total = sum(row[-1] for row in _B0_STAGES)
    channels, size = self.stem, -(-self.image // 2)
    for stage, (kernel, first, expansion, plain, repeats) in enumerate(_B0_STAGES, 1):
      out = make_divisible(plain * self.width)
      for place in range(repeats):
        stride = 1 if place else first
        repeated = place > 0 or self.details.first_block_adds
        found.append(
          MBConvShape(
            number=len(found) + 1,
            stage=stage,
            place=place,
            channels=channels,
            kernel=kernel,
            expanded=channels * expansion,
            squeezed=max(1, channels // 4),
            out=out,
            stride=stride,
            padding=self._padding(kernel, stride, size),
            residual=repeated and stride == 1 and channels == out,
            drop=self.drop_connect * len(found) / total,
          )
        )
        channels, size = out, -(-size // stride)
    return tuple(found)

  @property
  def least_frames(self) -> int:
    """Of a log-mel that leaves a time step: 32 with the padding of a 224-pixel image."""
    layers = [(3, 2, self.stem_padding)]
    layers += [(block.kernel, block.stride, block.padding) for block in self.blocks]
    return next(n for n in range(1, 2 * self.image) if _left(n, layers) > 0)


def same_padding(kernel: int, stride: int, size: int) -> tuple[int, int]:
  """Zeros (before, behind) that make ceil(size / stride) outputs of `size` inputs, the odd one
  behind.
  """
  zeros = max((-(-size // stride) - 1) * stride + kernel - size, 0)
  return zeros // 2, zeros - zeros // 2


def _left(size: int, layers: list[tuple[int, int, tuple[int, int]]]) -> int:
  for kernel, stride, padding in layers:
    size = (size + sum(padding) - kernel) // stride + 1
    if size < 1:
      return 0
  return size


class Lineage(NamedTuple):
  """Where two public EfficientNets differ.

  eps, momentum: of batch norm, PyTorch's momentum. fixed_padding: strided convolutions pad as if
  for an image of fixed size, more at the end than before; else symmetrically. first_block_adds: the
  first block of a stage adds its input where the shape allows it. start: of the kernels.
  """

  eps: float
  momentum: float
  fixed_padding: bool
  first_block_adds: bool
  start: Literal["fan_in", "kaiming_fan_out"]


LINEAGES = {
  "efficientnet_pytorch": Lineage(1e-3, 0.01, True, False, "fan_in"),
  "torchvision": Lineage(1e-5, 0.1, False, True, "kaiming_fan_out"),
}

DECISION_SIZES: dict[str, MobileNetV2Config | EfficientNetConfig] = {
  "mobilenet_v2": MobileNetV2Config(),
  "efficientnet_b0": EfficientNetConfig(),
}
