"""Multi-head self-attention; the only file that picks an attention kernel."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dasheng_jax import native
from dasheng_jax.config import ComputeConfig


def attend(
  q: Float[Array, "b t h c"],
  k: Float[Array, "b t h c"],
  v: Float[Array, "b t h c"],
  keep: Bool[Array, "b t"] | None,
  kernel: str,
) -> Float[Array, "b t h c"]:
  """softmax(q k / sqrt(c)) v with the softmax in float32.

  keep: True for keys that may be attended. A masked score is the lowest finite float32, not minus
  infinity, so a row with no key left attends uniformly and stays finite, as in the released code
  (reference text, section 5).
  """
  if kernel == "cudnn":
    mask = None if keep is None else keep[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")
  scores = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=jnp.float32)
  scores = scores * (q.shape[-1] ** -0.5)
  if keep is not None:
    scores = jnp.where(keep[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum("bhqk,bkhc->bqhc", weights, v)


class Attention(nn.Module):
  """Self-attention: one fused projection to queries, keys and values, and one of the output."""

  heads: int
  compute: ComputeConfig
  kernel_init: nn.initializers.Initializer

  @nn.compact
  def __call__(
    self, x: Float[Array, "b t d"], keep: Bool[Array, "b t"] | None = None
  ) -> Float[Array, "b t d"]:
    width = x.shape[-1]
    head = width // self.heads
    # Stored as [d, 3, h, c]: one product for all three, and a heads axis for tensor parallelism.
    # The initial values are drawn for the released fused shape [d, 3 d], because the bound of a
    # Xavier draw depends on it.
    qkv_kernel = self.param(
      "qkv_kernel", _drawn_as(self.kernel_init, (width, 3 * width)), (width, 3, self.heads, head)
    )
    qkv_bias = self.param("qkv_bias", nn.initializers.zeros, (3, self.heads, head))
    out_kernel = self.param(
      "out_kernel", _drawn_as(self.kernel_init, (width, width)), (self.heads, head, width)
    )
    out_bias = self.param("out_bias", nn.initializers.zeros, (width,))

    dtype = jnp.dtype(self.compute.dtype)
    if self.compute.kernels == "auto" and native.takes(x.astype(dtype), width, head):
      weights = [w.astype(dtype) for w in (qkv_kernel, qkv_bias, out_kernel, out_bias)]
      return _native(x.astype(dtype), weights, keep)
    qkv = jnp.einsum("btd,dnhc->nbthc", x.astype(dtype), qkv_kernel.astype(dtype))
    q, k, v = qkv + qkv_bias.astype(dtype)[:, None, None]
    mixed = attend(q, k, v, keep, self.compute.attention)
    out = jnp.einsum("bthc,hcd->btd", mixed, out_kernel.astype(dtype))
    return out + out_bias.astype(dtype)[None, None]


def _native(
  x: Float[Array, "b t d"], weights: list[jax.Array], keep: Bool[Array, "b t"] | None
) -> Float[Array, "b t d"]:
  """The same with the kernels of the CPU."""
  qkv_kernel, qkv_bias, out_kernel, out_bias = weights
  batch, tokens, width = x.shape
  qkv = native.dense(x, qkv_kernel.reshape(width, 3 * width), qkv_bias.reshape(3 * width))
  mixed = native.attention(qkv.reshape(batch, tokens, *qkv_bias.shape), keep)
  return native.dense(mixed.reshape(x.shape), out_kernel.reshape(width, width), out_bias)


def _drawn_as(init: nn.initializers.Initializer, shape: tuple[int, ...]):
  """An initialiser that draws a matrix of `shape` and regroups it to the parameter's shape."""

  def draw(key, target, dtype=jnp.float32):
    return init(key, shape, dtype).reshape(target)

  return draw
