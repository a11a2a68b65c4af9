"""Quantisation simulated in float32, and the ranges that it measures on the way.

Source: reference text of the scene models, section 8, point 2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mobile_jax.quantised.affine import (
  ACTIVATIONS,
  WEIGHTS,
  Affine,
  activation_affine,
  fake_quantise,
  weight_affine,
)
from mobile_jax.quantised.fold import Folded
from mobile_jax.quantised.walk import FloatArithmetic, points, walk
from mobile_jax.scene_config import CPMobileConfig

# {"low": f32[points], "high": f32[points], "batches": i32[]}, in the order of `points`.
Ranges = dict[str, jax.Array]
# Share of a batch in the moving averages of least and greatest value.
MOMENTUM = 0.01


def fresh_ranges(cfg: CPMobileConfig) -> Ranges:
  """Before any batch: every scale is 1 and every zero 0. The first batch sets them."""
  count = len(points(cfg))
  return {
    "low": jnp.zeros((count,)),
    "high": jnp.full((count,), ACTIVATIONS.high, jnp.float32),
    "batches": jnp.zeros((), jnp.int32),
  }


def affines(cfg: CPMobileConfig, ranges: Ranges) -> dict[str, Affine]:
  """How the activations of every point are quantised."""
  found = activation_affine(ranges["low"], ranges["high"])
  return {name: Affine(found.scale[i], found.zero[i]) for i, name in enumerate(points(cfg))}


def simulated_logits(
  cfg: CPMobileConfig, folded: Folded, ranges: Ranges, log_mel: Float[Array, "b f t"]
) -> Float[Array, "b classes"]:
  """With weights and activations quantised and back; ranges are read, not moved."""
  return walk(cfg, _Simulation(cfg, folded, ranges), log_mel)


def observed_logits(
  cfg: CPMobileConfig,
  folded: Folded,
  ranges: Ranges,
  log_mel: Float[Array, "b f t"],
  observing: Bool[Array, ""] | bool = True,
) -> tuple[Float[Array, "b classes"], Ranges]:
  """(logits, moved ranges) of a training step.

  A point first moves its range towards the batch's, then quantises with what came of it; what it
  sees is quantised at the points before it. observing: False leaves all ranges as they are.
  """
  how = _Simulation(cfg, folded, ranges, observing)
  logits = walk(cfg, how, log_mel)
  return logits, how.moved()


class _Simulation(FloatArithmetic):
  """Quantises every kernel and every point; with `observing` it moves ranges first."""

  def __init__(
    self,
    cfg: CPMobileConfig,
    folded: Folded,
    ranges: Ranges,
    observing: jax.Array | bool | None = None,
  ):
    super().__init__(folded, cfg.compute.kernels)
    self.places = {name: i for i, name in enumerate(points(cfg))}
    self.ranges, self.observing = ranges, observing
    self.extents = dict(
      zip(self.places, zip(ranges["low"], ranges["high"], strict=True), strict=True)
    )

  def kernel_of(self, kernel: jax.Array) -> jax.Array:
    return fake_quantise(kernel, weight_affine(kernel), WEIGHTS)

  def at_point(self, x: jax.Array, name: str) -> jax.Array:
    if self.observing is not None:
      self.extents[name] = self._observed(x, name)
    return fake_quantise(x, activation_affine(*self.extents[name]), ACTIVATIONS)

  def _observed(self, x: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
    x = jax.lax.stop_gradient(x)

    def move(old: jax.Array, new: jax.Array) -> jax.Array:
      later = old + MOMENTUM * (new - old)
      moved = jnp.where(self.ranges["batches"] == 0, new, later)
      return jnp.where(jnp.asarray(self.observing), moved, old)

    low, high = self.extents[name]
    return move(low, jnp.min(x)), move(high, jnp.max(x))

  def moved(self) -> Ranges:
    lows, highs = zip(*self.extents.values(), strict=True)
    count = self.ranges["batches"] + jnp.asarray(self.observing, jnp.int32)
    return {"low": jnp.stack(lows), "high": jnp.stack(highs), "batches": count}
