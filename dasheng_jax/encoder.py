"""The encoder: log-mel -> patches with positions -> blocks -> one embedding per 40 ms."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from dasheng_jax.batch_norm import MelBatchNorm
from dasheng_jax.blocks import LAYER_NORM_EPS, BlockStack
from dasheng_jax.config import DashengConfig
from dasheng_jax.masking import gather_kept
from dasheng_jax.patches import PatchEmbed, Positions, patchify


class Encoder(nn.Module):
  """Dasheng's encoder in pieces, for pre-training and chunked inference to put together.

  `patches` runs once over the complete input, `positioned` adds positions to at most
  `encoder.positions` patches, and `encode` is the block stack with its final norm.
  """

  cfg: DashengConfig

  def setup(self):
    """The pieces, under the names that checkpoints know."""
    shape = self.cfg.encoder
    self.init_bn = MelBatchNorm(self.cfg.bn_gradient)
    self.patch_embed = PatchEmbed(self.cfg)
    self.positions = Positions(self.cfg)
    self.blocks = BlockStack(
      shape.depth,
      shape.heads,
      shape.mlp_ratio,
      self.cfg.compute,
      nn.initializers.xavier_uniform(),
    )
    self.norm = nn.LayerNorm(epsilon=LAYER_NORM_EPS, use_fast_variance=False, dtype=jnp.float32)

  def patches(
    self,
    log_mel: Float[Array, "b f frames"],
    train: bool = False,
    valid: Bool[Array, "b frames"] | None = None,
  ) -> Float[Array, "b t d"]:
    """Normalise and project all patches of the input, without positions.

    valid: frames that count in the statistics of training; None means all.
    """
    normalised = self.init_bn(log_mel, train, valid)
    return self.patch_embed(patchify(normalised, self.cfg.patch_frames))

  def positioned(self, tokens: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    """Add positions, counted from 0."""
    return self.positions(tokens)

  def encode(
    self, tokens: Float[Array, "b t d"], keep: Bool[Array, "b t"] | None = None
  ) -> Float[Array, "b t d"]:
    """Blocks and final norm. keep: True for tokens that may be attended to."""
    return self.norm(self.blocks(tokens, keep))

  def __call__(
    self,
    log_mel: Float[Array, "b f frames"],
    kept: Int[Array, "b k"],
    train: bool = False,
    valid: Bool[Array, "b t"] | None = None,
  ) -> Float[Array, "b k d"]:
    """Embeddings of the kept patches, in the order of `kept`.

    valid: patches that are no padding; the others are not attended to and do not count in the
    statistics of training. No chunking: ConfigError for more patches than the time table holds.
    """
    frames = keep = None
    if valid is not None:
      frames = whole_frames(valid, self.cfg.patch_frames, log_mel.shape[2])
      keep = jnp.take_along_axis(valid, kept, axis=1)
    tokens = self.positioned(self.patches(log_mel, train, frames))
    return self.encode(gather_kept(tokens, kept), keep)


def whole_frames(valid: Bool[Array, "b t"], patch_frames: int, frames: int) -> Bool[Array, "b n"]:
  """Frames of the valid patches; frames behind the last whole patch go with that patch."""
  repeated = jnp.repeat(valid, patch_frames, axis=1)
  return jnp.pad(repeated, ((0, 0), (0, frames - repeated.shape[1])), mode="edge")


def chunk_rows(
  x: Shaped[Array, "b t *d"], size: int
) -> tuple[Shaped[Array, "rows size *d"] | None, Shaped[Array, "b rest *d"] | None]:
  """Whole chunks of `size` tokens, laid out as rows, and the shorter rest; either may be None."""
  batch, count = x.shape[:2]
  whole = count // size
  rows = x[:, : whole * size].reshape(batch * whole, size, *x.shape[2:]) if whole else None
  return rows, (x[:, whole * size :] if count % size else None)


def unchunk_rows(
  rows: jax.Array | None, rest: jax.Array | None, batch: int
) -> Float[Array, "b t d"]:
  """The inverse of `chunk_rows`."""
  parts = [] if rows is None else [rows.reshape(batch, -1, rows.shape[-1])]
  return jnp.concatenate(parts + ([] if rest is None else [rest]), axis=1)
