"""Configurations of the Dasheng masked autoencoder, and the sizes by name.

Sizes: arXiv 2406.06992, table 3, and the reference text, section 7, where the paper and the
released weights differ.
"""

from __future__ import annotations

import bisect
import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable
from typing import Literal

from dasheng_jax.errors import ConfigError
from pipelines.mel import DASHENG_MEL, MelConfig, empty_filters

TargetNorm = Literal["patch", "global", "none"]
BatchNormGradient = Literal["exact", "torch_cpu"]
Padding = Literal["learn", "ignore"]
PositionInit = Literal["released", "sincos"]
DecoderInit = Literal["released", "xavier"]


def _check_stack(field: str, stack: EncoderConfig | DecoderConfig) -> None:
  for name in ("width", "depth", "heads", "mlp_ratio"):
    value = getattr(stack, name)
    if not (0 < value < math.inf):
      raise ConfigError(f"{field}.{name} is {value}; it must be more than 0")
  width, heads = stack.width, stack.heads
  if width % heads:
    near = [h for h in range(1, width + 1) if width % h == 0]
    best = sorted(near, key=lambda h: abs(h - heads))[:2]
    raise ConfigError(
      f"{field}.width {width} is not divisible by {heads} heads; try heads "
      + " or ".join(map(str, sorted(best)))
    )


def _check_mel(mel: MelConfig) -> None:
  """ConfigError where mel filters are narrower than the steps of the FFT and so hear nothing."""
  empty = empty_filters(mel)
  if not empty:
    return
  # An FFT bin lies within two filters at most, so no more than twice as many filters can all hear.
  some = range(1, min(mel.mel_bins, mel.n_fft + 3))
  fits = bisect.bisect(some, 0, key=lambda n: empty_filters(dataclasses.replace(mel, mel_bins=n)))
  fewer = f"{fits} or fewer, or " if fits else ""
  raise ConfigError(
    f"model.mel.mel_bins {mel.mel_bins}: {empty} of them lie between two bins of an FFT of "
    f"{mel.n_fft} points and would hear nothing; use {fewer}a larger model.mel.n_fft"
  )


def _check_choices(prefix: str, config: object) -> None:
  """ConfigError for a field of type Literal that holds something else."""
  for name, kind in typing.get_type_hints(type(config)).items():
    value, choices = getattr(config, name), typing.get_args(kind)
    if typing.get_origin(kind) is Literal and value not in choices:
      raise ConfigError(f"{prefix}.{name} is {value!r}; choose from {', '.join(choices)}")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """The encoder's shape.

  positions: length of the time table, which is the longest chunk, in patches of 40 ms.
  """

  width: int = 768
  depth: int = 12
  heads: int = 12
  mlp_ratio: float = 4.0
  # 1008 frames: a little more than a 10 s clip's 250 patches. Longer inputs are cut into chunks of
  # this many.
  positions: int = 252

  def __post_init__(self):
    _check_stack("model.encoder", self)
    if self.positions < 1:
      raise ConfigError(f"model.encoder.positions is {self.positions}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """The decoder's shape.

  Its position table has one row more than the encoder's (a leftover of a class token).
  """

  width: int = 512
  depth: int = 8
  heads: int = 16
  mlp_ratio: float = 4.0

  def __post_init__(self):
    _check_stack("model.decoder", self)


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
  """How the block stacks are computed. None of this changes what they compute, but for rounding."""

  # Matrix products run in this type; parameters, norms, softmax, statistics, residual sums and loss
  # stay in float32.
  dtype: Literal["float32", "bfloat16"] = "float32"
  # One compiled block scanned over stacked parameters, or an unrolled stack with parameters per
  # layer.
  scan: bool = True
  # "block" keeps block inputs only and recomputes the rest in the backward pass; "dots" keeps
  # matrix products too.
  remat: Literal["none", "block", "dots"] = "none"
  # "xla" is plain products and softmax; "cudnn" is the fused kernel of NVIDIA GPUs (bfloat16 only).
  attention: Literal["xla", "cudnn"] = "xla"
  # "auto" takes the C++ kernels of `dasheng_jax.native` on one CPU device where a compiler is at
  # hand: layers in float32, and AdamW on float32 parameters. Derivatives are of reverse mode, once.
  kernels: Literal["auto", "xla"] = "auto"

  def __post_init__(self):
    _check_choices("model.compute", self)
    if self.attention == "cudnn" and self.dtype != "bfloat16":
      raise ConfigError(
        "model.compute.attention 'cudnn' needs model.compute.dtype bfloat16; it has no float32 form"
      )


@dataclasses.dataclass(frozen=True)
class DashengConfig:
  """The complete masked autoencoder."""

  encoder: EncoderConfig = EncoderConfig()
  decoder: DecoderConfig = DecoderConfig()
  mel: MelConfig = DASHENG_MEL
  compute: ComputeConfig = ComputeConfig()
  # One patch is all mel bins by this many frames: 4 frames of 10 ms.
  patch_frames: int = 4
  mask_ratio: float = 0.75
  # Neighbouring patches are kept or hidden in groups of this many; 1 is ungrouped. The published
  # run uses 2.
  mask_group: int = 2
  target_norm: TargetNorm = "patch"
  # "torch_cpu" repeats a defect of PyTorch's CPU backward, to retrace runs made with it; see
  # batch_norm.py.
  bn_gradient: BatchNormGradient = "exact"
  # What becomes of the zeros behind a short clip in pre-training. "learn" is the released
  # behaviour: they are audio like any other. "ignore" keeps them out of statistics, attention and
  # loss.
  padding: Padding = "learn"
  # What the learnt positions start from. "released": noise of 0.02 in the encoder, zeros in the
  # decoder, which takes thousands of steps to tell neighbours apart. "sincos": sines and cosines of
  # geometric periods in both, as in the masked autoencoder for images (arXiv 2111.06377).
  position_init: PositionInit = "released"
  # What the decoder's matrices start from. "released": noise of 0.02 whatever the width, which in a
  # narrow decoder lets hardly anything through; "xavier": as in the encoder.
  decoder_init: DecoderInit = "released"

  def __post_init__(self):
    _check_choices("model", self)
    _check_mel(self.mel)
    odd = [n for n in (self.encoder.width, self.decoder.width) if n % 2]
    if self.position_init == "sincos" and odd:
      raise ConfigError(f"model.position_init 'sincos' needs even widths; {odd[0]} is odd")
    if not 0.0 < self.mask_ratio < 1.0:
      raise ConfigError(f"model.mask_ratio is {self.mask_ratio}; it must lie between 0 and 1")
    if self.mask_group < 1:
      raise ConfigError(
        f"model.mask_group is {self.mask_group}; use 1 for ungrouped masking, 2 as published"
      )
    if self.patch_frames < 1:
      raise ConfigError(f"model.patch_frames is {self.patch_frames}; it must be at least 1")

  @property
  def patch_size(self) -> int:
    """Elements of one patch: mel bins times frames (256)."""
    return self.mel.mel_bins * self.patch_frames

  @property
  def patch_samples(self) -> int:
    """Samples that one patch stands for (640, which is 40 ms)."""
    return self.mel.hop_length * self.patch_frames

  @property
  def min_samples(self) -> int:
    """Shortest wave that gives one patch (480, which is 30 ms)."""
    return max(self.mel.min_samples, (self.patch_frames - 1) * self.mel.hop_length)

  def patches(self, samples: int) -> int:
    """Number of patches, and so of embeddings, of a wave of `samples` samples."""
    return self.mel.frames(samples) // self.patch_frames

  def with_compute(self, **changes) -> DashengConfig:
    """The same model computed in another way, e.g. `cfg.with_compute(dtype="bfloat16")`."""
    return dataclasses.replace(self, compute=dataclasses.replace(self.compute, **changes))


DEC_25M = DecoderConfig(width=512, depth=8, heads=16)
DEC_56M = DecoderConfig(width=768, depth=8, heads=24)


def _size(width: int, depth: int, heads: int, decoder: DecoderConfig) -> DashengConfig:
  return DashengConfig(encoder=EncoderConfig(width, depth, heads), decoder=decoder)


SIZES: dict[str, DashengConfig] = {
  "dasheng_base": _size(768, 12, 12, DEC_25M),
  # The released weights and both inference packages.
  "dasheng_0_6b": _size(1280, 32, 16, DEC_25M),
  "dasheng_1_2b": _size(1536, 40, 24, DEC_56M),
  # Table 3 of the paper; 404 M parameters, not 600 M.
  "dasheng_0_6b_paper": _size(1024, 32, 16, DEC_25M),
  # What the released training script builds under the name of the 0.6B model.
  "dasheng_0_6b_trainer": _size(1536, 24, 24, DEC_25M),
  # Ours, for one machine.
  "dasheng_small": _size(384, 12, 6, DecoderConfig(width=256, depth=4, heads=8)),
  "dasheng_mini": _size(192, 6, 6, DecoderConfig(width=128, depth=2, heads=4)),
  "dasheng_micro": _size(96, 4, 4, DecoderConfig(width=64, depth=2, heads=4)),
}


def named(name: str) -> DashengConfig:
  """Configuration by name; a wrong name answers with the nearest right ones."""
  if name not in SIZES:
    raise ConfigError(unknown_name("model", name, SIZES))
  return SIZES[name]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
  """One line that names the nearest right names, or all of them when none is near."""
  choices = list(known)
  near = difflib.get_close_matches(name, choices, n=3, cutoff=0.4)
  hint = "did you mean " + " or ".join(near) if near else "choose from " + ", ".join(choices)
  return f"no {kind} is named {name!r}; {hint}"
