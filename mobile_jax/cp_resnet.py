"""CP-ResNet: a residual network whose receptive field is held down by 1 x 1 kernels.

    log-mel[b, f, t] -> 5x5 / 2 -> pool 2x2 -> blocks -> 1x1, norm -> mean -> logits[b, classes]
    block: k x k -> ReLU -> k x k -> + shortcut -> ReLU [-> pool 2x1]

Reference text of the scene models, section 3.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax import fused
from mobile_jax.draws import normal
from mobile_jax.heads import ConvHead
from mobile_jax.layers import DenseNorm
from mobile_jax.mn import Outputs
from mobile_jax.ops import max_pool
from mobile_jax.scene_config import BasicBlockShape, CPResNetConfig


class BasicBlock(nn.Module):
  """Two convolutions and a shortcut. blocks: of the network, which the start depends on."""

  shape: BasicBlockShape
  blocks: int

  def setup(self):
    """first, second and, where the width changes, shortcut."""
    shape = self.shape
    size, last = shape.kernels
    start = normal(math.sqrt(2 / (size * size * shape.out * self.blocks)))
    self.first = DenseNorm(shape.channels, shape.out, size, 1, size // 3, shape.groups, start)
    # The second convolution starts from zero: at first a block is its shortcut.
    self.second = DenseNorm(
      shape.out, shape.out, last, 1, last // 3, shape.groups, nn.initializers.zeros
    )
    if shape.channels != shape.out:
      start = normal(math.sqrt(2 / shape.out))
      self.shortcut = DenseNorm(shape.channels, shape.out, 1, 1, 0, shape.groups, start)

  def __call__(self, x: Float[Array, "b f t c"], train: bool = False) -> Float[Array, "b f2 t d"]:
    """The next map, its frequencies halved where the table says so."""
    y = self.second(self.first(x, train, "relu"), train)
    kept = x if self.shape.channels == self.shape.out else self.shortcut(x, train)
    y = jax.nn.relu(y + kept)
    return max_pool(y, (2, 1)) if self.shape.pooled else y


class CPResNet(nn.Module):
  """Log-mel in, `Outputs` out. Variables: "params" and "batch_stats"."""

  cfg: CPResNetConfig

  def setup(self):
    """stem, block_1 and so on, head: the names that weight tables know."""
    cfg = self.cfg
    # He on the inputs: 5 x 5 of one channel.
    self.stem = DenseNorm(1, cfg.base_channels, 5, 2, 1, 1, normal(math.sqrt(2 / 25)))
    count = len(cfg.blocks)
    self.block = [
      BasicBlock(block, count, name=f"block_{n}") for n, block in enumerate(cfg.blocks, 1)
    ]
    self.head = ConvHead(cfg.features, cfg.classes, nn.initializers.zeros)

  def __call__(self, log_mel: Float[Array, "b f frames"], train: bool = False) -> Outputs:
    """Of normalised log-mels. Training uses batch statistics.

    stages: behind the first convolution, and every block.
    """
    x = log_mel.astype(self.cfg.compute.dtype)[..., None]
    x = self.stem(x, train, "relu")
    stages = [x]
    x = max_pool(x, (2, 2)) if 0 in self.cfg.pools else x
    for block in self.block:
      x = block(x, train)
      stages.append(x)
    mean = fused.pool(x)
    logits, _ = self.head(x, mean, train)
    return Outputs(logits.astype(jnp.float32), mean, None, tuple(stages), {})
