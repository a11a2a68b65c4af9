"""EfficientNet-B0 that decides at every time step.

    log-mel[b, f, t] -> 3x3 / 2 -> 16 blocks -> 1x1 -> mean over frequency
                     -> linear, sigmoid -> frames[b, t / 32, classes] -> mean over time
    block: expand 1x1 -> depthwise k x k -> squeeze-and-excitation -> project 1x1 -> + input

Reference text of the weakly supervised taggers, section 2.2; swish throughout. What two public
versions of the network do not share is in `decision_config.LINEAGES`.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax import fused
from mobile_jax.decision_config import EfficientNetConfig, Lineage, MBConvShape
from mobile_jax.heads import DecisionHead
from mobile_jax.layers import STARTS, ConvNorm, Linear, gated
from mobile_jax.mn import Outputs


class Squeeze(nn.Module):
  """A gate in 0..1 for every channel of a map, from the map's mean."""

  channels: int
  squeezed: int
  lineage: Lineage

  @nn.compact
  def __call__(self, mean: Float[Array, "b c"]) -> Float[Array, "b c"]:
    start, c, few = STARTS[self.lineage.start], self.channels, self.squeezed
    x = jax.nn.silu(Linear(c, few, start=start(c, few), name="down")(mean))
    return nn.sigmoid(Linear(few, c, start=start(few, c), name="up")(x))


class MBConv(nn.Module):
  """[expand 1x1] -> depthwise -> squeeze-and-excitation -> project 1x1, plus the input."""

  shape: MBConvShape
  lineage: Lineage
  kernels: str = "auto"

  def setup(self):
    """The three convolutions under their own names, and "squeeze"."""
    shape = self.shape
    conv = _conv(self.lineage, self.kernels)
    if shape.expands:
      self.expand = conv("pointwise", shape.channels, shape.expanded)
    self.depthwise = conv(
      "depthwise",
      shape.expanded,
      shape.expanded,
      shape.kernel,
      shape.stride,
      padding=_unless_symmetric(shape.kernel, shape.padding),
    )
    self.squeeze = Squeeze(shape.expanded, shape.squeezed, self.lineage)
    self.project = conv("pointwise", shape.expanded, shape.out)
    # Whole clips are dropped, and what is left of the batch is scaled up.
    self.connect = nn.Dropout(shape.drop, broadcast_dims=(1, 2, 3))

  def __call__(self, x: Float[Array, "b f t c"], train: bool = False) -> Float[Array, "b f2 t2 d"]:
    """The next map. Training needs the stream "dropout"."""
    y = self.expand(x, train, "swish") if self.shape.expands else x
    y = self.depthwise(y, train, "swish")
    gate = self.squeeze(fused.pool(y))
    residual = x if self.shape.residual else None
    if not train:
      folded = self.project.folded()
      return fused.project(y, folded, scale=gate, residual=residual, kernels=self.kernels)
    y = self.project(gated(y, gate), train)
    return y if residual is None else self.connect(y, deterministic=False) + residual


class EfficientNet(nn.Module):
  """Log-mel in, `Outputs` out. Variables: "params" and "batch_stats"."""

  cfg: EfficientNetConfig

  def setup(self):
    """stem, block_1 to block_16, last, head: the names that weight tables know."""
    cfg, kernels = self.cfg, self.cfg.compute.kernels
    conv = _conv(cfg.details, kernels)
    padding = _unless_symmetric(3, cfg.stem_padding)
    self.stem = conv("stem", 1, cfg.stem, 3, 2, padding=padding)
    self.block = [
      MBConv(block, cfg.details, kernels, name=f"block_{block.number}") for block in cfg.blocks
    ]
    self.last = conv("pointwise", cfg.blocks[-1].out, cfg.features)
    self.head = DecisionHead(cfg.features, cfg.classes, cfg.dropout, cfg.objective)

  def __call__(self, log_mel: Float[Array, "b f frames"], train: bool = False) -> Outputs:
    """Of log-mels in dB. Training uses batch statistics and the random stream "dropout".

    logits: those whose sigmoid is the mean of `frames`, see `heads.logits_of_mean`. stages: behind
    the first convolution, every block and the last convolution, whose mean over frequency is an
    embedding of every 320 ms.
    """
    x = self.stem(log_mel.astype(self.cfg.compute.dtype), train, "swish")
    stages = [x]
    for block in self.block:
      x = block(x, train)
      stages.append(x)
    x = self.last(x, train, "swish")
    logits, frames = self.head(x, train)
    mean = fused.pool(x)
    return Outputs(logits.astype(jnp.float32), mean, None, (*stages, x), {}, frames)


def _conv(lineage: Lineage, kernels: str) -> functools.partial:
  return functools.partial(
    ConvNorm, kernels=kernels, eps=lineage.eps, momentum=lineage.momentum, start=lineage.start
  )


def _unless_symmetric(kernel: int, padding: tuple[int, int]) -> tuple[int, int] | None:
  """None, which the C++ forms know, for as many zeros on either side as keep a map's size."""
  return None if padding == ((kernel - 1) // 2, (kernel - 1) // 2) else padding
