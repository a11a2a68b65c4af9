"""CP-Mobile: inverted residual blocks with global response normalisation behind the sum.

    log-mel[b, f, t] -> 3x3 / 2 -> 3x3 / 2 -> six blocks -> 1x1, norm -> mean -> logits[b, classes]
    block: expand 1x1 -> depthwise 3x3 -> project 1x1 -> + shortcut -> GRN -> ReLU

Reference text of the scene models, section 2.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax import fused
from mobile_jax.heads import ConvHead
from mobile_jax.layers import ConvNorm, DenseNorm
from mobile_jax.mn import Outputs
from mobile_jax.ops import average_pool
from mobile_jax.scene_config import CPBlockShape, CPMobileConfig

# PyTorch's defaults, other than in MN.
EPS, MOMENTUM = 1e-5, 0.1
_GRN_EPS = 1e-6


def safe_norm(x: Float[Array, "b f t c"]) -> Float[Array, "b c"]:
  """L2 norm over frequency and time, with a gradient of 0 where a channel is silent."""
  squares = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2))
  silent = squares == 0
  return jnp.where(silent, 0.0, jnp.sqrt(jnp.where(silent, 1.0, squares)))


def response_norm(
  x: Float[Array, "b f t c"], gamma: Float[Array, " 1"], beta: Float[Array, " 1"]
) -> Float[Array, "b f t c"]:
  """Behind the sum: x + gamma x N + beta, N a channel's norm by the mean of all norms."""
  norms = safe_norm(x)
  share = norms / (jnp.mean(norms, axis=1, keepdims=True) + _GRN_EPS)
  factor = 1.0 + gamma[None] * share
  return x * factor[:, None, None] + beta[None, None, None]


class ResponseNorm(nn.Module):
  """`response_norm` with its two scalars for a block."""

  @nn.compact
  def __call__(self, x: Float[Array, "b f t c"]) -> Float[Array, "b f t c"]:
    gamma = self.param("gamma", nn.initializers.zeros, (1,))
    beta = self.param("beta", nn.initializers.zeros, (1,))
    return response_norm(x, gamma, beta)


class CPBlock(nn.Module):
  """Expand, depthwise, project; shortcut, response norm and ReLU behind them."""

  shape: CPBlockShape
  kernels: str = "auto"

  def setup(self):
    """The three convolutions under their own names, and "response"."""
    shape, inside = self.shape, self.shape.expanded
    conv = functools.partial(ConvNorm, kernels=self.kernels, eps=EPS, momentum=MOMENTUM)
    self.expand = conv("pointwise", shape.channels, inside)
    self.depthwise = conv("depthwise", inside, inside, 3, shape.stride)
    self.project = conv("pointwise", inside, shape.out)
    self.response = ResponseNorm()

  def __call__(self, x: Float[Array, "b f t c"], train: bool = False) -> Float[Array, "b f2 t2 d"]:
    """The next map."""
    residual = None
    match self.shape.shortcut:
      case "identity":
        residual = x
      case "pool":
        residual = average_pool(x, self.shape.stride)
    if train:
      y = self.project(self.depthwise.after(self.expand, x, "relu"), train)
      y = y if residual is None else y + residual
    else:
      y, _ = fused.expand_depthwise(
        x,
        self.expand.folded(),
        self.depthwise.folded(),
        activation="relu",
        stride=self.shape.stride,
        kernels=self.kernels,
      )
      y = fused.project(y, self.project.folded(), residual=residual, kernels=self.kernels)
    return jax.nn.relu(self.response(y)).astype(x.dtype)


class CPMobile(nn.Module):
  """Log-mel in, `Outputs` out. Variables: "params" and "batch_stats"."""

  cfg: CPMobileConfig

  def setup(self):
    """stem, second, block_1 to block_6, head: the names that weight tables know."""
    cfg, kernels = self.cfg, self.cfg.compute.kernels
    self.stem = ConvNorm(
      "stem", 1, cfg.base // 4, 3, 2, kernels=kernels, eps=EPS, momentum=MOMENTUM
    )
    self.second = DenseNorm(cfg.base // 4, cfg.base, 3, 2, 1)
    self.block = [CPBlock(block, kernels, name=f"block_{block.number}") for block in cfg.blocks]
    self.head = ConvHead(cfg.features, cfg.classes)

  def __call__(self, log_mel: Float[Array, "b f frames"], train: bool = False) -> Outputs:
    """Of normalised log-mels. Training uses batch statistics.

    stages: behind the first convolution, the second, and every block.
    """
    kernels = self.cfg.compute.kernels
    x = log_mel.astype(self.cfg.compute.dtype)
    if train:
      x = self.stem(x, train, "relu")
    else:
      x = fused.first(x, self.stem.folded(), activation="relu", kernels=kernels)
    stages = [x, x := self.second(x, train, "relu")]
    for block in self.block:
      x = block(x, train)
      stages.append(x)
    mean = fused.pool(x)
    logits, _ = self.head(x, mean, train)
    return Outputs(logits.astype(jnp.float32), mean, None, tuple(stages), {})
