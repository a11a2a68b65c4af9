"""Log-mel to patches and back, and the learnt positions.

A patch is all mel bins by `patch_frames` frames. Its elements are ordered mel * patch_frames +
frame (mel-major), as in the released convolution weights and targets (reference text, section 3).
Up to patch_frames - 1 trailing frames are dropped.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from dasheng_jax.config import DashengConfig
from dasheng_jax.errors import ConfigError


def patchify(log_mel: Float[Array, "b f frames"], patch_frames: int) -> Float[Array, "b t p"]:
  """Cut a spectrogram into patches along time, without overlap."""
  whole = log_mel.shape[2] // patch_frames * patch_frames
  return rearrange(log_mel[:, :, :whole], "b f (t n) -> b t (f n)", n=patch_frames)


def unpatchify(patches: Float[Array, "b t p"], patch_frames: int) -> Float[Array, "b f frames"]:
  """The inverse of `patchify`, for a whole number of patches."""
  return rearrange(patches, "b t (f n) -> b f (t n)", n=patch_frames)


def _torch_conv_uniform(fan_in: int):
  """Uniform within 1 / sqrt(fan_in): PyTorch's default for convolutions, weight and bias alike."""

  def init(key, shape, dtype=jnp.float32):
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class PatchEmbed(nn.Module):
  """Linear map of each patch to the encoder's width: the released 64 x 4 convolution."""

  cfg: DashengConfig

  @nn.compact
  def __call__(self, patches: Float[Array, "b t p"]) -> Float[Array, "b t d"]:
    size, width = self.cfg.patch_size, self.cfg.encoder.width
    kernel = self.param("kernel", _torch_conv_uniform(size), (size, width))
    bias = self.param("bias", _torch_conv_uniform(size), (width,))
    dtype = jnp.dtype(self.cfg.compute.dtype)
    # Positions are added in float32 by the caller, so the sum is taken there too.
    projected = jnp.matmul(patches.astype(dtype), kernel.astype(dtype))
    return projected.astype(jnp.float32) + bias[None, None]


def sincos_table(key: jax.Array, shape: tuple[int, int], dtype=jnp.float32) -> jax.Array:
  """Initial positions without randomness: sin(i / 10000^(2 j / d)) and the cosines behind them.

  The signature is that of an initialiser; the key is not used. The width must be even.
  """
  del key
  rows, width = shape
  rates = 10_000.0 ** (-2.0 * np.arange(width // 2) / width)
  angle = np.outer(np.arange(rows), rates)
  return jnp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], axis=1), dtype)


class Positions(nn.Module):
  """Adds the learnt time table and the one learnt frequency vector (a patch spans all mel bins)."""

  cfg: DashengConfig

  @nn.compact
  def __call__(self, tokens: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    rows, width = self.cfg.encoder.positions, self.cfg.encoder.width
    start = sincos_table if self.cfg.position_init == "sincos" else nn.initializers.normal(0.02)
    time = self.param("time", start, (rows, width))
    freq = self.param("freq", nn.initializers.normal(0.02), (width,))
    count = tokens.shape[1]
    if count > rows:
      raise ConfigError(
        f"{count} patches do not fit the time table of {rows}: shorten the crop to "
        f"{(rows * self.cfg.patch_samples) / self.cfg.mel.sample_rate:.2f} s "
        "or raise model.encoder.positions"
      )
    return tokens + (time[:count] + freq[None])[None]
