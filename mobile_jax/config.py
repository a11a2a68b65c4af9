"""Configurations of MN and DyMN, their block tables, and the sizes by name.

Reference text, sections 2 to 5; papers: EUSIPCO 2023, "Low-Complexity Audio Embedding Extractors"
(MN), and arXiv 2310.15648 (DyMN).
"""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Literal, NamedTuple

from dasheng_jax.errors import ConfigError
from pipelines.kaldi_mel import KALDI_MEL, KaldiMelConfig

Activation = Literal["relu", "hardswish", "relu6", "swish", "none"]
Head = Literal["mlp", "fully_convolutional", "attention"]
Aggregate = Literal["max", "avg", "add", "min"]
DynamicBlocks = Literal["all", "replace_se", "first", "middle", "last", "none"]
Attention = Literal["coordinate", "none", "triplet", "srm", "grn", "se", "cbam", "gc"]
AttentionAxes = Literal["both", "frequency", "time"]
Context = Literal["shared", "per_use"]
Sequences = Literal["shared", "separate", "concatenated"]

# in, kernel, expanded, out, squeeze-and-excitation, activation, stride: a row per block at width 1.
_TABLE: tuple[tuple[int, int, int, int, bool, Activation, int], ...] = (
  (16, 3, 16, 16, False, "relu", 1),
  (16, 3, 64, 24, False, "relu", 2),
  (24, 3, 72, 24, False, "relu", 1),
  (24, 5, 72, 40, True, "relu", 2),
  (40, 5, 120, 40, True, "relu", 1),
  (40, 5, 120, 40, True, "relu", 1),
  (40, 3, 240, 80, False, "hardswish", 2),
  (80, 3, 200, 80, False, "hardswish", 1),
  (80, 3, 184, 80, False, "hardswish", 1),
  (80, 3, 184, 80, False, "hardswish", 1),
  (80, 3, 480, 112, True, "hardswish", 1),
  (112, 3, 672, 112, True, "hardswish", 1),
  (112, 5, 672, 160, True, "hardswish", 2),
  (160, 5, 960, 160, True, "hardswish", 1),
  (160, 5, 960, 160, True, "hardswish", 1),
)
BLOCKS = len(_TABLE)
# The blocks that carry squeeze-and-excitation, counted from 1.
SE_BLOCKS = tuple(n for n, row in enumerate(_TABLE, 1) if row[4])
# Where the map is halved: block -> place in `strides`.
_STRIDED = {2: 0, 4: 1, 7: 2, 13: 3}


class BlockShape(NamedTuple):
  """One inverted residual block. number counts from 1; stride is the configured one."""

  number: int
  channels: int
  kernel: int
  expanded: int
  out: int
  se: bool
  activation: Activation
  stride: int
  dilation: int

  @property
  def expands(self) -> bool:
    """At small widths the expansion can be none; the block then has no expand convolution."""
    return self.expanded != self.channels

  @property
  def residual(self) -> bool:
    """The input is added to the output where neither shape nor channels change."""
    return self.stride == 1 and self.channels == self.out

  @property
  def true_stride(self) -> int:
    """A dilated depthwise convolution never strides, whatever is configured."""
    return self.stride if self.dilation == 1 else 1


def make_divisible(value: int | float) -> int:
  """To a multiple of 8, halves up, and never more than 10 % down (reference text, section 2)."""
  rounded = max(8, int(value + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * value else rounded


def conv_size(size: int, kernel: int, stride: int, dilation: int = 1) -> int:
  """Outputs of a convolution that pads dilation * (kernel - 1) // 2 on both sides."""
  pad = (kernel - 1) // 2 * dilation
  return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


def check_choices(config: object) -> None:
  """ConfigError for a field whose type lists its values and that holds another."""
  for name, kind in typing.get_type_hints(type(config)).items():
    value, choices = getattr(config, name), typing.get_args(kind)
    if typing.get_origin(kind) is Literal and value not in choices:
      raise ConfigError(f"{name} is {value!r}; choose from {', '.join(map(str, choices))}")


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
  """How a network is computed. None of this changes what it computes, but for rounding.

  dtype: matrix products and convolutions run in this type; norms, gates, pooling and heads stay in
  float32. kernels: "auto" uses the C++ kernels of `mobile_jax.native` on a CPU where a compiler is
  at hand, "xla" never: `jax.export` cannot store them, and those of training have no forward-mode
  derivative. "native" is "auto" for programs of a CPU alone: what other devices would run in place
  of the kernels is not traced, which halves that time.
  """

  dtype: Literal["float32", "bfloat16"] = "float32"
  kernels: Literal["auto", "native", "xla"] = "auto"

  def __post_init__(self):
    check_choices(self)


@dataclasses.dataclass(frozen=True)
class _Backbone:
  """What MN and DyMN share.

  objective: whether a clip has one class or tags, which no weight tells; published ones tell tags.
  """

  classes: int = 527
  width: float = 1.0
  strides: tuple[int, int, int, int] = (2, 2, 2, 2)
  dropout: float = 0.2
  mel: KaldiMelConfig = KALDI_MEL
  compute: ComputeConfig = ComputeConfig()
  objective: Literal["classes", "tags"] = "tags"

  def __post_init__(self):
    check_choices(self)
    if not 0 < self.width < math.inf:
      raise ConfigError(f"width is {self.width}; it must be more than 0 (published: 0.1 to 4)")
    if self.classes < 1:
      raise ConfigError(f"classes is {self.classes}; a tagger has at least 1")
    if len(self.strides) != 4 or any(s not in (1, 2) for s in self.strides):
      raise ConfigError(f"strides is {self.strides}; give four of 1 or 2, such as (2, 2, 2, 1)")
    if not 0 <= self.dropout < 1:
      raise ConfigError(f"dropout is {self.dropout}; it must be at least 0 and less than 1")

  def adjust(self, channels: int) -> int:
    """Channels at this width."""
    return make_divisible(channels * self.width)

  @property
  def tail(self) -> int:
    """What the last channel counts are divided by, before the width."""
    return 1

  @property
  def least_frames(self) -> int:
    """Of a log-mel: any number will do."""
    return 1

  @property
  def stem(self) -> int:
    """Channels of the first convolution."""
    return self.adjust(16)

  @property
  def blocks(self) -> tuple[BlockShape, ...]:
    """The 15 blocks, first to last."""
    blocks = []
    for number, (channels, kernel, expanded, out, se, activation, stride) in enumerate(_TABLE, 1):
      inside = expanded // self.tail if number > 13 else expanded
      blocks.append(
        BlockShape(
          number,
          self.adjust(channels // self.tail if number > 13 else channels),
          kernel,
          self.adjust(inside),
          self.adjust(out // self.tail if number > 12 else out),
          se,
          activation,
          self.strides[_STRIDED[number]] if number in _STRIDED else stride,
          self._dilation(number),
        )
      )
    return tuple(blocks)

  def _dilation(self, number: int) -> int:
    return 1

  @property
  def features(self) -> int:
    """Channels of the last convolution, which are the pooled features."""
    return 6 * self.blocks[-1].out

  @property
  def hidden(self) -> int:
    """Width of the hidden layer of the mlp head."""
    return self.adjust(1280 // self.tail)

  def with_compute(self, **changes):
    """The same model computed in another way, e.g. `cfg.with_compute(dtype="bfloat16")`."""
    return dataclasses.replace(self, compute=dataclasses.replace(self.compute, **changes))


@dataclasses.dataclass(frozen=True)
class MNConfig(_Backbone):
  """MobileNetV3 for audio (reference text, sections 2 to 4).

  Args:
    classes: outputs of the head.
    width: factor on all channel counts.
    reduced_tail: halves the channels of the last three blocks and of the hidden layer.
    dilated: the last three depthwise convolutions are dilated by 2 and do not stride.
    strides: of blocks 2, 4, 7 and 13.
    head: "mlp", "fully_convolutional" or "attention" (multi-head attention pooling over time).
    attention_heads: of the attention head.
    se: squeeze-and-excitation over "c" (channels), "f" (frequency), "t" (time), or several at once;
      "none" for none. With "t" the clip must have `frames` frames.
    se_aggregate: how several are joined, element by element.
    se_reduction: divides the size of the squeezed axis to give the bottleneck.
    frames: length of the log-mel that time SE is built for.
    dropout: before the last layer of the mlp head.
  """

  reduced_tail: bool = False
  dilated: bool = False
  head: Head = "mlp"
  attention_heads: int = 4
  se: str = "c"
  se_aggregate: Aggregate = "max"
  se_reduction: int = 4
  frames: int = 1000

  def __post_init__(self):
    super().__post_init__()
    letters = self.squeezed
    if set(letters) - set("cft") or len(set(letters)) != len(letters):
      raise ConfigError(f"se is {self.se!r}; give letters of c, f, t, each once, or 'none'")
    if self.se_reduction < 1 or self.attention_heads < 1:
      raise ConfigError("se_reduction and attention_heads must be at least 1")
    if self.dilated and set(letters) & {"f", "t"}:
      # The released code sizes these from the configured stride, which a dilated block ignores.
      raise ConfigError("dilated=True works with se 'c' or 'none' alone, not over f or t")

  @property
  def squeezed(self) -> tuple[str, ...]:
    """The axes under squeeze-and-excitation, in the order of the configuration."""
    return () if self.se in ("none", "") else tuple(self.se)

  @property
  def tail(self) -> int:
    """2 with the reduced tail."""
    return 2 if self.reduced_tail else 1

  def _dilation(self, number: int) -> int:
    return 2 if self.dilated and number > 12 else 1

  def sizes(self, mel_bins: int, frames: int) -> tuple[tuple[int, int], ...]:
    """(frequency, time) of the stem's output and of every block's, from a log-mel's size."""
    sizes = [(conv_size(mel_bins, 3, 2), conv_size(frames, 3, 2))]
    for block in self.blocks:
      rule = (block.kernel, block.true_stride, block.dilation)
      sizes.append((conv_size(sizes[-1][0], *rule), conv_size(sizes[-1][1], *rule)))
    return tuple(sizes)


@dataclasses.dataclass(frozen=True)
class DyMNConfig(_Backbone):
  """DyMN: MN with dynamic blocks (reference text, section 5, and the paper's tables II to XI).

  Args:
    classes, width, strides, dropout: as in MN.
    dynamic: which of the 15 blocks are dynamic: "all", "replace_se" (those where MN squeezes), the
      "first", "middle" or "last" five (table III), or "none". The others are MN blocks without SE.
    convs: which convolutions of a dynamic block are dynamic: any of "expand", "depthwise",
      "project" (tables II and IV).
    relus: behind which of them Dy-ReLU stands (table IV); elsewhere the block's static activation,
      and none behind the projection.
    attention: the gate between depthwise convolution and projection: "coordinate", "none", or one
      of the rivals of table V.
    attention_axes: coordinate attention over both axes or over one of them (table VI).
    kernels: K of Dy-Conv (table VII). pieces: M of Dy-ReLU (table IX).
    context: "shared" makes one context per block; "per_use" one for each of Dy-ReLU, Dy-Conv and
      coordinate attention (table X).
    sequences: the frequency and the time sequence go through "shared" parameters, through
      "separate" ones, or through shared ones and are pooled on their own, side by side
      ("concatenated") (table X).
    context_ratio, min_context, max_context: size of the context, H = clip(expanded / ratio, min,
      max), min and max scaled by the width (table XI).
    temperature: of the Dy-Conv softmax in inference: 1 for AudioSet weights, 30 for ImageNet
      weights and untrained models. It is in no state dict.
  """

  dynamic: DynamicBlocks = "all"
  convs: tuple[str, ...] = ("expand", "depthwise", "project")
  relus: tuple[str, ...] = ("depthwise",)
  attention: Attention = "coordinate"
  attention_axes: AttentionAxes = "both"
  kernels: int = 4
  pieces: int = 2
  context: Context = "shared"
  sequences: Sequences = "shared"
  context_ratio: int = 4
  min_context: int = 32
  max_context: int = 128
  temperature: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    for name in ("convs", "relus"):
      places, odd = getattr(self, name), set(getattr(self, name)) - set(PLACES)
      if odd or len(set(places)) != len(places):
        raise ConfigError(f"{name} is {places}; give some of {', '.join(PLACES)}, each once")
    for name in ("kernels", "pieces", "context_ratio", "min_context", "max_context", "temperature"):
      if not 0 < getattr(self, name) < math.inf:
        raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0")

  def is_dynamic(self, block: BlockShape) -> bool:
    """Whether this block is a dynamic one."""
    return block.number in _DYNAMIC[self.dynamic]

  @property
  def uses_context(self) -> bool:
    """Whether dynamic blocks generate a context.

    They do in every variant of the released code, even where nothing reads it; the rival
    attentions of table V stand in plain blocks and have none.
    """
    return bool(self.convs or self.relus) or self.attention in ("coordinate", "none")

  def context_size(self, block: BlockShape) -> int:
    """H of a block (reference text, section 5.3)."""
    low, high = self.adjust(self.min_context), self.adjust(self.max_context)
    return min(max(make_divisible(block.expanded // self.context_ratio), low), high)


# The three convolutions of a block, in order.
PLACES = ("expand", "depthwise", "project")
_DYNAMIC: dict[str, tuple[int, ...]] = {
  "all": tuple(range(1, 16)),
  "replace_se": SE_BLOCKS,
  "first": tuple(range(1, 6)),
  "middle": tuple(range(6, 11)),
  "last": tuple(range(11, 16)),
  "none": (),
}

SIZES: dict[str, MNConfig | DyMNConfig] = {
  **{f"mn{round(10 * w):02d}": MNConfig(width=w) for w in (0.1, 0.2, 0.4, 0.5, 1.0, 2.0, 3.0, 4.0)},
  **{f"dymn{round(10 * w):02d}": DyMNConfig(width=w) for w in (0.4, 1.0, 2.0)},
}
