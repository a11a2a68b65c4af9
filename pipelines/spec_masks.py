"""Frequency and time masks on log-mel spectrograms (SpecAugment, arXiv 1904.08779), in jnp alone.

    uniforms f32[4, b]  -> one half-open range of bands and one of frames per clip
    x f32[b, f, frames] -> the same with the cells of both ranges replaced by `fill`

Every function is a pure function of its key or of the uniforms that it is given. The ranges follow
the EfficientAT front end (reference text, section 1): with the mask parameter P and an axis of
`size` cells, v = u_width * P cells are hidden from floor(u_start * (size - v)) on, floor(v) of
them. The start is drawn with the unrounded v.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

# "clip": every clip has masks of its own. "batch": the clips of a batch share one pair of masks.
Sharing = Literal["clip", "batch"]

# What hidden cells hold before the front end's affine (x + 4.5) / 5; after it they hold 0.9. Of the
# log-mel in dB of the weakly supervised taggers this is a loud cell, as released.
FILL = 0.0
# (freq_mask, time_mask) of those taggers; they share one pair of masks per batch (their reference
# text, section 3).
DECISION_MASKS = (12, 96)


def check_masks(freq_mask: int, time_mask: int, sharing: Sharing) -> None:
  """ValueError for parameters that no mask can have."""
  for name, value in (("freq_mask", freq_mask), ("time_mask", time_mask)):
    if value < 0:
      raise ValueError(f"{name} is {value}; it must be 0 (no mask) or more")
  if sharing not in ("clip", "batch"):
    raise ValueError(f"mask_sharing is {sharing!r}; choose 'clip' or 'batch'")


def mask_uniforms(
  key: Key[Array, ""], batch: int, sharing: Sharing = "clip"
) -> Float[Array, "4 b"]:
  """Uniforms in [0, 1) for one pair of masks per clip.

  Rows: width and start of the frequency mask, width and start of the time mask. With
  `sharing="batch"` the columns are equal.
  """
  check_masks(0, 0, sharing)
  drawn = jax.random.uniform(key, (4, batch if sharing == "clip" else 1))
  return jnp.broadcast_to(drawn, (4, batch))


def mask_range(
  width: Float[Array, " b"], start: Float[Array, " b"], parameter: int, size: int
) -> tuple[Int[Array, " b"], Int[Array, " b"]]:
  """(first, stop) of the hidden cells on an axis of `size` cells, from two uniforms per clip.

  A `parameter` above `size` may hide the whole axis: `first` is then negative.
  """
  cells = width * parameter
  first = jnp.floor(start * (size - cells)).astype(jnp.int32)
  return first, first + jnp.floor(cells).astype(jnp.int32)


def apply_masks(
  x: Float[Array, "b f frames"],
  uniforms: Float[Array, "4 b"],
  freq_mask: int,
  time_mask: int,
  fill: float = FILL,
) -> Float[Array, "b f frames"]:
  """`x` with up to `freq_mask` bands and up to `time_mask` frames of each clip set to `fill`."""
  check_masks(freq_mask, time_mask, "clip")
  for axis, parameter, pair in ((1, freq_mask, uniforms[:2]), (2, time_mask, uniforms[2:])):
    if parameter == 0:
      continue
    first, stop = mask_range(pair[0], pair[1], parameter, x.shape[axis])
    cell = jnp.arange(x.shape[axis])[None]
    hidden = (cell >= first[:, None]) & (cell < stop[:, None])
    x = jnp.where(jnp.expand_dims(hidden, 3 - axis), fill, x)
  return x


def spec_masks(
  x: Float[Array, "b f frames"],
  key: Key[Array, ""],
  freq_mask: int,
  time_mask: int,
  sharing: Sharing = "clip",
  fill: float = FILL,
) -> Float[Array, "b f frames"]:
  """One frequency mask and one time mask per clip, drawn from `key`; 0 switches a mask off."""
  return apply_masks(x, mask_uniforms(key, x.shape[0], sharing), freq_mask, time_mask, fill)
