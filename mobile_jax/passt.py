"""PaSST: a vision transformer over overlapping patches of the log-mel, most of them left out in
training.

    log-mel[b, f, t] -> 16x16 patches every 10 -> + time and frequency positions -> patchout
      -> [class, distillation, patches] -> blocks -> mean of the two tokens -> norm, linear

The blocks are those of Dasheng. Reference text of the scene models, section 4; Koutini et al. 2022,
"Efficient Training of Audio Transformers with Patchout".
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dasheng_jax.blocks import LAYER_NORM_EPS, BlockStack
from mobile_jax.draws import normal
from mobile_jax.mn import Outputs
from mobile_jax.ops import dense
from mobile_jax.passt_config import PaSSTConfig

# PyTorch's own default, other than in the blocks.
_HEAD_EPS = 1e-5
_START = normal(0.02)


class Patchout(NamedTuple):
  """What a training step keeps; one draw for the whole batch, indices ascending.

  Attributes:
    offset: where in the time table the first column stands.
    time, frequency: columns and rows of the patch map that are kept.
    tokens: of what is left, row by row, those that are kept; None for all.
  """

  offset: Int[Array, ""]
  time: Int[Array, " kt"]
  frequency: Int[Array, " kf"]
  tokens: Int[Array, " k"] | None


def draw_patchout(cfg: PaSSTConfig, key: jax.Array, columns: int) -> Patchout:
  """Which patches a step keeps of a map of `columns` columns."""
  for_offset, for_time, for_frequency, for_tokens = jax.random.split(key, 4)
  spare = max(cfg.columns - columns, 0)
  columns = min(columns, cfg.columns)
  time = max(columns - cfg.patchout_time, 1)
  frequency = max(cfg.rows - cfg.patchout_frequency, 1)
  count = time * frequency
  tokens = None
  if cfg.patchout_tokens:
    tokens = _kept(for_tokens, count, max(count - cfg.patchout_tokens, 1))
  return Patchout(
    jax.random.randint(for_offset, (), 0, spare + 1),
    _kept(for_time, columns, time),
    _kept(for_frequency, cfg.rows, frequency),
    tokens,
  )


def whole_map(cfg: PaSSTConfig, columns: int) -> Patchout:
  """Nothing left out, from the first column of the time table: inference."""
  time = jnp.arange(min(columns, cfg.columns))
  return Patchout(jnp.zeros((), jnp.int32), time, jnp.arange(cfg.rows), None)


def _kept(key: jax.Array, count: int, keep: int) -> Int[Array, " keep"]:
  return jnp.sort(jax.random.permutation(key, count)[:keep])


class Head(nn.Module):
  """LayerNorm and a linear layer: what a new number of classes replaces is the second alone."""

  classes: int

  @nn.compact
  def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b classes"]:
    norm = nn.LayerNorm(epsilon=_HEAD_EPS, use_fast_variance=False, dtype=jnp.float32, name="norm")
    return _Linear(self.classes, name="logits")(norm(x))


class _Linear(nn.Module):
  outputs: int

  @nn.compact
  def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b k"]:
    kernel = self.param("kernel", _START, (x.shape[-1], self.outputs))
    bias = self.param("bias", nn.initializers.zeros, (self.outputs,))
    return jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST) + bias[None]


class PaSST(nn.Module):
  """Log-mel in, `Outputs` out. Variables: "params" alone.

  The second head, `head_dist`, is in the state dict and in the count of parameters; the released
  forward pass does not use it.
  """

  cfg: PaSSTConfig

  def setup(self):
    """patch_*, the tokens and tables, blocks, norm, head, head_dist: as weight tables know them."""
    cfg = self.cfg
    width = cfg.width
    size = (cfg.patch, cfg.patch, 1, width)
    self.patch_kernel = self.param("patch_kernel", _START, size)
    self.patch_bias = self.param("patch_bias", nn.initializers.zeros, (width,))
    self.class_token = self.param("class_token", _START, (width,))
    self.distillation_token = self.param("distillation_token", _START, (width,))
    self.token_positions = self.param("token_positions", _START, (2, width))
    self.frequency = self.param("frequency", _START, (cfg.rows, width))
    self.time = self.param("time", _START, (cfg.columns, width))
    # Of the key, not of `few_draws`: a scan traces one block for all layers.
    start = nn.initializers.truncated_normal(0.02)
    self.blocks = BlockStack(cfg.depth, cfg.heads, cfg.mlp_ratio, cfg.compute, start)
    self.norm = nn.LayerNorm(epsilon=LAYER_NORM_EPS, use_fast_variance=False, dtype=jnp.float32)
    self.head = Head(cfg.classes)
    self.head_dist = _Linear(cfg.classes)

  def __call__(
    self, log_mel: Float[Array, "b f frames"], train: bool = False, patchout: Patchout | None = None
  ) -> Outputs:
    """Of normalised log-mels. Training draws the patchout from the stream "dropout", unless given.

    stages: the patch map with its positions, and the tokens behind the last norm.
    """
    cfg = self.cfg
    patches = dense(log_mel[..., None], self.patch_kernel, cfg.stride)
    patches = patches + self.patch_bias[None, None, None]
    columns = patches.shape[2]
    if patchout is None and train:
      patchout = draw_patchout(cfg, self.make_rng("dropout"), columns)
    kept = whole_map(cfg, columns) if patchout is None else patchout
    columns = min(columns, cfg.columns)
    table = jax.lax.dynamic_slice_in_dim(self.time, kept.offset, columns)
    patches = patches[:, :, :columns] + table[None, None] + self.frequency[None, :, None]
    chosen = jnp.take(jnp.take(patches, kept.time, axis=2), kept.frequency, axis=1)
    flat = chosen.reshape(chosen.shape[0], -1, cfg.width)
    if kept.tokens is not None:
      flat = jnp.take(flat, kept.tokens, axis=1)
    first = jnp.stack([self.class_token, self.distillation_token]) + self.token_positions
    first = jnp.broadcast_to(first[None], (flat.shape[0], 2, cfg.width))
    x = self.norm(self.blocks(jnp.concatenate([first, flat], axis=1)))
    features = (x[:, 0] + x[:, 1]) / 2
    logits = self.head(features)
    if self.is_initializing():
      self.head_dist(features)
    return Outputs(logits.astype(jnp.float32), features, None, (patches, x), {})
