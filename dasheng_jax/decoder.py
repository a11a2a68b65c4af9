"""The decoder: visible embeddings and mask tokens -> predicted patches."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dasheng_jax.blocks import BlockStack, Dense, layer_norm
from dasheng_jax.config import DashengConfig
from dasheng_jax.masking import restore_order
from dasheng_jax.patches import sincos_table


class Decoder(nn.Module):
  """Predicts the elements of all patches from the embeddings of the visible ones.

  Reference text, section 6.
  """

  cfg: DashengConfig

  @nn.compact
  def __call__(
    self,
    latent: Float[Array, "b k d"],
    restore: Int[Array, "b t"],
    valid: Bool[Array, "b t"] | None = None,
  ) -> Float[Array, "b t p"]:
    shape, compute = self.cfg.decoder, self.cfg.compute
    normal = nn.initializers.normal(0.02)
    matrix = nn.initializers.xavier_uniform() if self.cfg.decoder_init == "xavier" else normal
    mask_token = self.param("mask_token", normal, (shape.width,))
    # One row more than there are positions: the released table keeps room for a class token that no
    # model has.
    rows = self.cfg.encoder.positions + 1
    start = sincos_table if self.cfg.position_init == "sincos" else nn.initializers.zeros
    pos_embed = self.param("pos_embed", start, (rows, shape.width))

    visible = Dense(shape.width, compute, matrix, name="input_proj")(latent)
    tokens = restore_order(visible.astype(jnp.float32), mask_token, restore)
    tokens = tokens + pos_embed[None, : tokens.shape[1]]
    blocks = BlockStack(shape.depth, shape.heads, shape.mlp_ratio, compute, matrix, name="blocks")
    tokens = blocks(tokens, valid)
    tokens = layer_norm("norm")(tokens)
    predicted = Dense(self.cfg.patch_size, compute, matrix, name="output")(tokens)
    return predicted.astype(jnp.float32)
