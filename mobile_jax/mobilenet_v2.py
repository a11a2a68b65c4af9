"""MobileNetV2 that decides at every time step.

    log-mel[b, f, t] -> 3x3 / 2 -> 17 inverted residual blocks -> 1x1 -> mean over frequency
                     -> linear, sigmoid -> frames[b, t / 32, classes] -> mean over time

Reference text of the weakly supervised taggers, section 2.1. The blocks are those of MN without
squeeze-and-excitation, with ReLU6, and with PyTorch's own batch norms.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax import fused
from mobile_jax.decision_config import MobileNetV2Config
from mobile_jax.heads import DecisionHead
from mobile_jax.layers import ConvNorm, Start
from mobile_jax.mn import InvertedResidual, Outputs

EPS, MOMENTUM = 1e-5, 0.1
_STARTS: dict[str, Start] = {"psl": "xavier", "torchvision": "kaiming_fan_out"}


class MobileNetV2(nn.Module):
  """Log-mel in, `Outputs` out. Variables: "params" and "batch_stats"."""

  cfg: MobileNetV2Config

  def setup(self):
    """stem, block_1 to block_17, last, head: the names that weight tables know."""
    cfg = self.cfg
    shared = {
      "kernels": cfg.compute.kernels,
      "eps": EPS,
      "momentum": MOMENTUM,
      "start": _STARTS[cfg.lineage],
    }
    conv = functools.partial(ConvNorm, **shared)
    self.stem = conv("stem", 1, cfg.stem, 3, 2)
    self.block = [
      InvertedResidual(block, name=f"block_{block.number}", **shared) for block in cfg.blocks
    ]
    self.last = conv("pointwise", cfg.blocks[-1].out, cfg.features)
    self.head = DecisionHead(cfg.features, cfg.classes, cfg.dropout, cfg.objective)

  def __call__(self, log_mel: Float[Array, "b f frames"], train: bool = False) -> Outputs:
    """Of log-mels in dB. Training uses batch statistics and the random stream "dropout".

    logits: those whose sigmoid is the mean of `frames`, see `heads.logits_of_mean`. stages: behind
    the first convolution, every block and the last convolution, whose mean over frequency is an
    embedding of every 320 ms.
    """
    kernels = self.cfg.compute.kernels
    x = log_mel.astype(self.cfg.compute.dtype)
    if train:
      x = self.stem(x, train, "relu6")
    else:
      x = fused.first(x, self.stem.folded(), activation="relu6", kernels=kernels)
    stages = [x]
    for block in self.block:
      x, _ = block(x, train)
      stages.append(x)
    if train:
      x = self.last(x, train, "relu6")
      mean = fused.pool(x)
    else:
      x, mean = fused.last(x, self.last.folded(), activation="relu6", kernels=kernels)
    logits, frames = self.head(x, train)
    return Outputs(logits.astype(jnp.float32), mean, None, (*stages, x), {}, frames)
