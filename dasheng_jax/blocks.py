"""The pre-norm transformer block, and the stack of them: scanned and rematerialised, or unrolled.

Reference text, section 4: x = x + attn(norm(x)); x = x + mlp(norm(x)); LayerNorm eps 1e-6; exact
(erf) GELU; no dropout, no layer scale. The residual sum stays in float32 whatever type the products
use.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dasheng_jax import native
from dasheng_jax.attention import Attention
from dasheng_jax.config import ComputeConfig
from dasheng_jax.sharding import constrain_batch

LAYER_NORM_EPS = 1e-6


def layer_norm(name: str) -> nn.LayerNorm:
  """LayerNorm in float32 with the eps of the released models."""
  # use_fast_variance would take E[x^2] - E[x]^2, which loses digits where the mean is large.
  return nn.LayerNorm(epsilon=LAYER_NORM_EPS, use_fast_variance=False, dtype=jnp.float32, name=name)


class Dense(nn.Module):
  """x @ kernel + bias in the compute type."""

  features: int
  compute: ComputeConfig
  kernel_init: nn.initializers.Initializer

  @nn.compact
  def weights(self, width: int) -> tuple[Float[Array, "i o"], Float[Array, " o"]]:
    """(kernel, bias) for inputs of this width, in the compute type."""
    kernel = self.param("kernel", self.kernel_init, (width, self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    dtype = jnp.dtype(self.compute.dtype)
    return kernel.astype(dtype), bias.astype(dtype)

  def __call__(self, x: Float[Array, "b t i"]) -> Float[Array, "b t o"]:
    """The product."""
    kernel, bias = self.weights(x.shape[-1])
    x = x.astype(kernel.dtype)
    if self.compute.kernels == "auto" and native.takes(x, *kernel.shape):
      return native.dense(x, kernel, bias)
    return jnp.matmul(x, kernel) + bias[None, None]


class Mlp(nn.Module):
  """Two dense layers with exact GELU between them."""

  ratio: float
  compute: ComputeConfig
  kernel_init: nn.initializers.Initializer

  @nn.compact
  def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    width, wide = x.shape[-1], int(x.shape[-1] * self.ratio)
    up = Dense(wide, self.compute, self.kernel_init, name="up")
    down = Dense(width, self.compute, self.kernel_init, name="down")
    x = x.astype(self.compute.dtype)
    if self.compute.kernels == "auto" and native.takes(x, width, wide):
      return native.mlp(x, *up.weights(width), *down.weights(wide))
    return down(jax.nn.gelu(up(x), approximate=False))


class Block(nn.Module):
  """Pre-norm transformer block: x + attn(norm(x)), then x + mlp(norm(x))."""

  heads: int
  mlp_ratio: float
  compute: ComputeConfig
  kernel_init: nn.initializers.Initializer

  @nn.compact
  def __call__(
    self, x: Float[Array, "b t d"], keep: Bool[Array, "b t"] | None = None
  ) -> Float[Array, "b t d"]:
    attn = Attention(self.heads, self.compute, self.kernel_init, name="attn")
    x = constrain_batch(x + attn(layer_norm("attn_norm")(x), keep).astype(x.dtype))
    mlp = Mlp(self.mlp_ratio, self.compute, self.kernel_init, name="mlp")
    return constrain_batch(x + mlp(layer_norm("mlp_norm")(x)).astype(x.dtype))


def _keep_products(primitive: Any, *avals: Any, **params: Any) -> Any:
  """A policy: what dense layers give is kept, whether XLA or `dasheng_jax.native` makes it."""
  dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  return dots(primitive, *avals, **params) or native.is_product(primitive, params)


_REMAT_POLICY = {"block": None, "dots": _keep_products}


class BlockStack(nn.Module):
  """`depth` blocks in a row.

  With `compute.scan` the parameters carry a leading layer axis under the name "layers"; without it
  every block has its own subtree "layer_0", "layer_1", ... (`stack_layers` and `unstack_layers`
  convert).
  """

  depth: int
  heads: int
  mlp_ratio: float
  compute: ComputeConfig
  kernel_init: nn.initializers.Initializer

  @nn.compact
  def __call__(
    self, x: Float[Array, "b t d"], keep: Bool[Array, "b t"] | None = None
  ) -> Float[Array, "b t d"]:
    block = Block
    if self.compute.remat != "none":
      # Inside a scan the compiler cannot merge the recomputation away, so the costly guard against
      # it can be off.
      block = nn.remat(
        Block, prevent_cse=not self.compute.scan, policy=_REMAT_POLICY[self.compute.remat]
      )
    fields = (self.heads, self.mlp_ratio, self.compute, self.kernel_init)
    if not self.compute.scan:
      for i in range(self.depth):
        x = block(*fields, name=f"layer_{i}")(x, keep)
      return x
    scanned = nn.scan(
      lambda module, carry, keep: (module(carry, keep), None),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=self.depth,
    )
    x, _ = scanned(block(*fields, name="layers"), x, keep)
    return x


def unstack_layers(blocks: dict) -> dict:
  """Parameters of a scanned stack {"layers": ...} as its twin's {"layer_0": ..., ...}."""
  layers = blocks["layers"]
  depth = jax.tree.leaves(layers)[0].shape[0]
  return {f"layer_{i}": jax.tree.map(lambda x, i=i: x[i], layers) for i in range(depth)}


def stack_layers(blocks: dict) -> dict:
  """The inverse of `unstack_layers`."""
  rows = [blocks[f"layer_{i}"] for i in range(len(blocks))]
  return {"layers": jax.tree.map(lambda *x: jnp.stack(x), *rows)}
