"""MN: MobileNetV3 on log-mels, with every head and squeeze-and-excitation (sections 2 to 4)."""

from __future__ import annotations

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax import fused
from mobile_jax.config import BlockShape, MNConfig
from mobile_jax.heads import AttentionHead, ConvHead, MlpHead
from mobile_jax.layers import ConvNorm, Excitation, Start, gated
from mobile_jax.norm import BatchNorm


class Outputs(NamedTuple):
  """What one forward pass knows; `jax.jit` drops what the caller does not use.

  logits f32[b, classes]: apply a sigmoid for probabilities. features f32[b, c]: mean of the last
  map. hidden f32[b, hidden]: the mlp head's hidden layer after its hardswish, None with other
  heads. stages: the 17 maps [b, f, t, c] of the stem, the 15 blocks and the last convolution.
  squeezed: bottlenecks of squeeze-and-excitation before their ReLU, {block: {axis: f32[b, n]}}.
  frames: probabilities f32[b, steps, classes] of taggers that decide at every step, else None.
  """

  logits: jax.Array
  features: jax.Array
  hidden: jax.Array | None
  stages: tuple[jax.Array, ...]
  squeezed: dict[int, dict[str, jax.Array]]
  frames: jax.Array | None = None


class InvertedResidual(nn.Module):
  """[expand 1x1] -> depthwise -> [squeeze-and-excitation] -> project 1x1, plus the input."""

  shape: BlockShape
  axes: tuple[str, ...] = ()
  # Frequency and time of the map behind the depthwise convolution; known only where it is needed.
  map_size: tuple[int, int] = (0, 0)
  reduction: int = 4
  aggregate: str = "max"
  kernels: str = "auto"
  eps: float = BatchNorm.eps
  momentum: float = BatchNorm.momentum
  start: Start = "kaiming_fan_out"

  def setup(self):
    """The three convolutions under their own names, and "excite"."""
    shape = self.shape
    conv = functools.partial(
      ConvNorm, kernels=self.kernels, eps=self.eps, momentum=self.momentum, start=self.start
    )
    if shape.expands:
      self.expand = conv("pointwise", shape.channels, shape.expanded)
    self.depthwise = conv(
      "depthwise", shape.expanded, shape.expanded, shape.kernel, shape.true_stride, shape.dilation
    )
    if self.axes:
      known = {"c": shape.expanded, "f": self.map_size[0], "t": self.map_size[1]}
      sizes = tuple(known[axis] for axis in self.axes)
      self.excite = Excitation(self.axes, sizes, self.reduction, self.aggregate)
    self.project = conv("pointwise", shape.expanded, shape.out)

  def __call__(
    self, x: Float[Array, "b f t c"], train: bool = False
  ) -> tuple[Float[Array, "b f2 t2 d"], dict[str, jax.Array]]:
    """(map, bottlenecks of squeeze-and-excitation by axis)."""
    shape = self.shape
    if train:
      if shape.expands:
        y = self.depthwise.after(self.expand, x, shape.activation)
      else:
        y = self.depthwise(x, train, shape.activation)
      mean = fused.pool(y)
    else:
      y, mean = fused.expand_depthwise(
        x,
        self.expand.folded() if shape.expands else None,
        self.depthwise.folded(),
        activation=shape.activation,
        stride=shape.true_stride,
        dilation=shape.dilation,
        kernels=self.kernels,
      )
    gate, squeezed = None, {}
    if self.axes:
      y, gate, squeezed = self.excite(y, mean)
    residual = x if shape.residual else None
    if not train:
      folded = self.project.folded()
      y = fused.project(y, folded, scale=gate, residual=residual, kernels=self.kernels)
      return y, squeezed
    y = self.project(gated(y, gate), train)
    return (y if residual is None else x + y), squeezed


class MN(nn.Module):
  """Log-mel in, `Outputs` out. Variables: "params" and "batch_stats"."""

  cfg: MNConfig

  def setup(self):
    """stem, block_1 to block_15, last, head: the names that weight tables know."""
    cfg = self.cfg
    blocks = cfg.blocks
    self.stem = ConvNorm("stem", 1, cfg.stem, 3, 2, kernels=cfg.compute.kernels)
    sizes = cfg.sizes(cfg.mel.mel_bins, cfg.frames)
    self.block = [
      InvertedResidual(
        block,
        axes=cfg.squeezed if block.se else (),
        map_size=sizes[block.number],
        reduction=cfg.se_reduction,
        aggregate=cfg.se_aggregate,
        kernels=cfg.compute.kernels,
        name=f"block_{block.number}",
      )
      for block in blocks
    ]
    self.last = ConvNorm("pointwise", blocks[-1].out, cfg.features, kernels=cfg.compute.kernels)
    match cfg.head:
      case "mlp":
        self.head = MlpHead(cfg.features, cfg.hidden, cfg.classes, cfg.dropout)
      case "fully_convolutional":
        self.head = ConvHead(cfg.features, cfg.classes)
      case _:
        self.head = AttentionHead(cfg.features, cfg.classes, cfg.attention_heads)

  def __call__(self, log_mel: Float[Array, "b f frames"], train: bool = False) -> Outputs:
    """Of normalised log-mels. Training uses batch statistics and the random stream "dropout"."""
    kernels = self.cfg.compute.kernels
    x = log_mel.astype(self.cfg.compute.dtype)
    if train:
      x = self.stem(x, train, "hardswish")
    else:
      x = fused.first(x, self.stem.folded(), activation="hardswish", kernels=kernels)
    stages, squeezed = [x], {}
    for number, block in enumerate(self.block, 1):
      x, bottlenecks = block(x, train)
      stages.append(x)
      if bottlenecks:
        squeezed[number] = bottlenecks
    if train:
      x = self.last(x, train, "hardswish")
      mean = fused.pool(x)
    else:
      x, mean = fused.last(x, self.last.folded(), activation="hardswish", kernels=kernels)
    logits, hidden = self.head(x, mean, train)
    return Outputs(logits.astype(jnp.float32), mean, hidden, (*stages, x), squeezed)
