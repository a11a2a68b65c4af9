"""CP-Mobile in integers: int8 weights, uint8 activations, sums in int32, then a new scale.

    sum = (x - zero_x) * (w - zero_w)                               int32, exact
    y   = round(sum * scale_x scale_w / scale_y + bias / scale_y) + zero_y, within 0..255

Response norms alone run in float32, on what their integers stand for. Reference text of the scene
models, section 8; Jacob et al. 2018, arXiv 1712.05877, section 2.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax.cp_mobile import response_norm
from mobile_jax.ops import per_channel, shifted
from mobile_jax.quantised.affine import (
  STORED,
  WEIGHTS,
  Affine,
  Levels,
  dequantise,
  quantise,
  symmetric_affine,
  weight_affine,
)
from mobile_jax.quantised.fold import Convolution, Folded, at, convolutions, put
from mobile_jax.quantised.simulate import Ranges, affines
from mobile_jax.quantised.walk import Arithmetic, points, walk
from mobile_jax.scene_config import CPMobileConfig

# As `fold.Folded`, a convolution being {"kernel" int8, "scale" f32[d], "zero" int8[d], "bias"
# f32[d]}, and under "points" {"scale" f32[points], "zero" uint8[points]}.
Integers = dict[str, Any]
# How weights are quantised: as in the simulation, or as PyTorch's conversion does.
Weights = Literal["simulated", "symmetric"]
_AFFINES = {"simulated": weight_affine, "symmetric": symmetric_affine}


class _Map(NamedTuple):
  """A quantised map. q: uint8[b, f, t, c]."""

  q: jax.Array
  affine: Affine

  @property
  def centred(self) -> jax.Array:
    """Integers, int32, around 0: the value 0."""
    return self.q.astype(jnp.int32) - self.affine.zero


def convert(
  cfg: CPMobileConfig, folded: Folded, ranges: Ranges, weights: Weights = "simulated"
) -> Integers:
  """The integers of folded parameters, with the ranges that were measured.

  weights: "symmetric" is for comparison with networks that PyTorch has converted.
  """
  made: Integers = {}
  for one in convolutions(cfg):
    params = at(folded, one.name)
    affine = _AFFINES[weights](params["kernel"])
    part = {
      "kernel": quantise(params["kernel"], affine, WEIGHTS).astype(jnp.int8),
      "scale": affine.scale,
      "zero": affine.zero.astype(jnp.int8),
      "bias": params["bias"],
    }
    put(made, one.name, part)
  for block in cfg.blocks:
    name = f"block_{block.number}/response"
    put(made, name, dict(at(folded, name)))
  each = affines(cfg, ranges)
  made["points"] = {
    "scale": jnp.stack([each[name].scale for name in points(cfg)]),
    "zero": jnp.stack([each[name].zero for name in points(cfg)]).astype(jnp.uint8),
  }
  return made


def integer_logits(
  cfg: CPMobileConfig,
  integers: Integers,
  log_mel: Float[Array, "b f t"],
  *,
  levels: Levels = STORED,
) -> Float[Array, "b classes"]:
  """Of normalised log-mels; multiples of the last point's scale.

  levels: within which activations stay. 0..255 is what eight bits hold and what PyTorch's kernels
  do; 0..127 is what the simulation does.
  """
  return walk(cfg, _Integers(cfg, integers, levels), log_mel)


class _Integers(Arithmetic):
  def __init__(self, cfg: CPMobileConfig, integers: Integers, levels: Levels):
    self.integers, self.levels = integers, levels
    told = integers["points"]
    self.points = {
      name: Affine(told["scale"][i], told["zero"][i].astype(jnp.int32))
      for i, name in enumerate(points(cfg))
    }

  def stored(self, q: jax.Array, affine: Affine) -> _Map:
    """Float or int32 around a zero of 0 -> the map."""
    q = jnp.clip(jnp.round(q).astype(jnp.int32) + affine.zero, *self.levels)
    return _Map(q.astype(jnp.uint8), affine)

  def enter(self, log_mel: jax.Array) -> _Map:
    affine = self.points["input"]
    q = quantise(log_mel.astype(jnp.float32), affine, self.levels)
    return _Map(q.astype(jnp.uint8)[..., None], affine)

  def convolve(self, x: _Map, which: Convolution) -> _Map:
    params, affine = at(self.integers, which.name), self.points[which.name]
    kernel = params["kernel"].astype(jnp.int32)
    zero = params["zero"].astype(jnp.int32)
    total = convolve(x.centred, kernel - zero.reshape((1,) * (kernel.ndim - 1) + zero.shape), which)
    factor = per_channel(x.affine.scale * params["scale"] / affine.scale)
    y = total.astype(jnp.float32) * factor + per_channel(params["bias"] / affine.scale)
    stored = self.stored(y, affine)
    return self.relu(stored) if which.relu else stored

  def pool(self, x: _Map, stride: tuple[int, int]) -> _Map:
    cells = [cell for _, _, cell in shifted(x.centred, 3, (1, 1), stride, 1)]
    total = functools.reduce(jnp.add, cells)
    return self.stored(total.astype(jnp.float32) * (1 / 9), x.affine)

  def add(self, x: _Map, y: _Map, name: str) -> _Map:
    affine = self.points[name]
    total = dequantise(x.q.astype(jnp.int32), x.affine) + dequantise(
      y.q.astype(jnp.int32), y.affine
    )
    return _Map(quantise(total, affine, self.levels).astype(jnp.uint8), affine)

  def respond(self, x: _Map, name: str) -> _Map:
    params, affine = at(self.integers, name), self.points[name]
    y = response_norm(dequantise(x.q.astype(jnp.int32), x.affine), params["gamma"], params["beta"])
    return _Map(quantise(y, affine, self.levels).astype(jnp.uint8), affine)

  def relu(self, x: _Map) -> _Map:
    return x._replace(q=jnp.maximum(x.q, x.affine.zero.astype(jnp.uint8)))

  def leave(self, x: _Map) -> jax.Array:
    cells = x.q.shape[1] * x.q.shape[2]
    total = jnp.sum(x.centred, axis=(1, 2)).astype(jnp.float32)
    mean = self.stored(total * (1 / cells), x.affine)
    return dequantise(mean.q.astype(jnp.int32), x.affine)


def convolve(x: jax.Array, kernel: jax.Array, which: Convolution) -> jax.Array:
  """The convolution of int32[b, f, t, c] with int32 weights, zeros all around; exact."""
  if which.kind == "pointwise":
    return jnp.einsum("bftc,cd->bftd", x, kernel)

  def term(row: int, column: int, cell: jax.Array) -> jax.Array:
    tap = kernel[row, column]
    return jnp.einsum("bftc,cd->bftd", cell, tap) if tap.ndim == 2 else cell * per_channel(tap)

  taps = shifted(x, kernel.shape[0], (1, 1), which.stride, 1)
  return functools.reduce(jnp.add, (term(*tap) for tap in taps))
