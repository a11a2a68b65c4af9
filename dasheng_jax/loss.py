"""The reconstruction loss: squared error on hidden patches, against normalised targets."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dasheng_jax.config import TargetNorm

TARGET_EPS = 1e-6


def normalise_target(
  target: Float[Array, "b t p"], kind: TargetNorm, counted: Bool[Array, "b t"] | None = None
) -> Float[Array, "b t p"]:
  """Targets in dB, normalised as `kind` says.

  "patch" normalises each patch, "global" the whole batch at once (of it the patches that are
  `counted`, where some are padding), "none" nothing. Both use the
  unbiased variance and eps 1e-6. A constant patch (digital silence) becomes exactly 0: one of its
  elements is subtracted first, since the float32 mean of equal numbers can be off by a rounding
  step, which 1 / sqrt(1e-6) would magnify a thousandfold (reference text, section 6).
  """
  if kind == "none":
    return target
  axes = (2,) if kind == "patch" else (0, 1, 2)
  anchor = target[:, :, :1] if kind == "patch" else target[:1, :1, :1]
  shifted = target - anchor
  centred = shifted - jnp.mean(shifted, axis=axes, keepdims=True)
  count: float | Array = target.shape[2] if kind == "patch" else target.size
  if kind == "global" and counted is not None:
    weight = jnp.broadcast_to(counted[:, :, None], target.shape).astype(jnp.float32)
    count = jnp.maximum(jnp.sum(weight), 2.0)
    centred = shifted - jnp.sum(shifted * weight) / count
    variance = jnp.sum(jnp.square(centred) * weight) / (count - 1)
    return centred / jnp.sqrt(variance + TARGET_EPS)
  variance = jnp.sum(jnp.square(centred), axis=axes, keepdims=True) / (count - 1)
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
