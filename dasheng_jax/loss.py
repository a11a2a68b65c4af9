"""The reconstruction loss: squared error on hidden patches, against normalised targets."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dasheng_jax.config import TargetNorm

TARGET_EPS = 1e-6


def normalise_target(
  target: Float[Array, "b t p"], kind: TargetNorm, counted: Bool[Array, "b t"] | None = None
) -> Float[Array, "b t p"]:
  """Targets in dB, normalised as `kind` says.

  "patch" normalises each patch, "global" the whole batch at once, "none" nothing. Both use the
  unbiased variance and eps 1e-6. counted: patches that are no padding, whose elements alone enter
  the statistics of "global"; None means all. A constant patch (digital silence) becomes exactly 0:
  one of its elements is subtracted first, since the float32 mean of equal numbers can be off by a
  rounding step, which 1 / sqrt(1e-6) would magnify a thousandfold (reference text, section 6).
  """
  if kind == "none":
    return target
  per_patch = kind == "patch"
  axes: tuple[int, ...] = (2,) if per_patch else (0, 1, 2)
  anchor = target[:, :, :1] if per_patch else target[:1, :1, :1]
  where = None if per_patch or counted is None else counted[:, :, None]
  values: int | Array = math.prod(target.shape[axis] for axis in axes)
  if where is not None:
    # Where nothing counts, nothing enters the loss either: 2 only keeps it from being 0 / 0.
    values = jnp.maximum(jnp.sum(where) * target.shape[2], 2)

  def total(x: Array) -> Array:
    return jnp.sum(x, axis=axes, keepdims=True, where=where)

  shifted = target - anchor
  centred = shifted - total(shifted) / values
  variance = total(jnp.square(centred)) / (values - 1)
  return centred / jnp.sqrt(variance + TARGET_EPS)


def masked_mse(
  pred: Float[Array, "b t p"], target: Float[Array, "b t p"], hidden: Bool[Array, "b t"]
) -> Float[Array, ""]:
  """Mean over the hidden patches of the complete batch of their mean squared error.

  A model that predicts 0 scores 255/256 on non-silent patches, so about 1 means that nothing has
  been learnt.
  """
  per_patch = jnp.mean(jnp.square(pred.astype(jnp.float32) - target), axis=-1)
  weight = hidden.astype(jnp.float32)
  # Short clips without padding may leave nothing to predict: a loss of 0, not 0 / 0.
  return jnp.sum(per_patch * weight) / jnp.maximum(jnp.sum(weight), 1.0)
