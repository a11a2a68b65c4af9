"""Adam whose moments are stored in eight bits, after Dettmers et al. (arXiv 2110.02861).

A step makes float32 moments of the stored ones, updates them, takes the direction from them, and
stores the nearest values of the dynamic map, with a sign for the mean and without for the square
(`experiments.training.quantise`). The arithmetic between is that of any Adam that it is given.

As in bitsandbytes, arrays with fewer than 4,096 values keep float32 moments. There every layer is
an array; here the layers of a scanned stack are one, so each is counted alone.
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.training.paths import leaves_by_path, look_up, map_by_path
from experiments.training.quantise import Quantised, boxes, choose_box, dequantise, quantise
from experiments.training.task import ParamAxes, Tree

MIN_SIZE = 4_096
# A scanned stack has its layers on the first axis (dasheng_jax.blocks.BlockStack).
STACKED = re.compile(r"(^|/)layers/")


def in_8_bits(
  adam: optax.GradientTransformation, param_axes: ParamAxes = ()
) -> optax.GradientTransformation:
  """`adam`, whose state is an `optax.ScaleByAdamState`, with both moments stored in eight bits.

  param_axes: the task's table, which says along which axes a mesh may split a parameter; without
    it, every axis counts as one. Read by `init` alone: the state carries its boxes.

  In the state, a moment is a `Quantised` in place of the array, or the array f32 where that is
  small.
  """

  def init(params: Tree) -> optax.ScaleByAdamState:
    state = adam.init(params)
    found = _boxes(params, param_axes)
    mu = map_by_path(lambda path, m: _zero(m, found[path], signed=True), state.mu)
    nu = map_by_path(lambda path, v: _zero(v, found[path], signed=False), state.nu)
    return state._replace(mu=mu, nu=nu)

  def update(grads: Tree, state: optax.ScaleByAdamState, params: Tree = None) -> tuple[Tree, Any]:
    wide = state._replace(mu=_wide(state.mu), nu=_wide(state.nu))
    direction, new = adam.update(grads, wide, params)
    return direction, new._replace(mu=_narrow(new.mu, state.mu), nu=_narrow(new.nu, state.nu))

  return optax.GradientTransformation(init, update)


def _boxes(params: Tree, param_axes: ParamAxes) -> dict[str, tuple[int, ...] | None]:
  """Path -> box of the parameter's moments, or None where these stay in float32."""
  leaves = leaves_by_path(params)
  rules = look_up(param_axes, list(leaves), "the parameter axes table") if param_axes else {}
  found: dict[str, tuple[int, ...] | None] = {}
  for path, leaf in leaves.items():
    layers = 1 if STACKED.search(path) else 0
    shape = leaf.shape[layers:]
    if math.prod(shape) < MIN_SIZE:
      found[path] = None
      continue
    axes = rules.get(path, ("any",) * len(shape))
    split = [False] * (leaf.ndim - len(axes)) + [axis is not None for axis in axes]
    found[path] = (1,) * layers + choose_box(shape, split[layers:])
  return found


def _zero(moment: jax.Array, box: tuple[int, ...] | None, signed: bool) -> jax.Array | Quantised:
  if box is None:
    return moment
  # Without a scale every code stands for 0.
  codes = jnp.zeros(moment.shape, jnp.uint8)
  return Quantised(codes, jnp.zeros(boxes(moment.shape, box), jnp.float32), box, signed)


def _is_quantised(node: Any) -> bool:
  return isinstance(node, Quantised)


def _wide(stored: Tree) -> Tree:
  return jax.tree.map(
    lambda m: dequantise(m) if _is_quantised(m) else m, stored, is_leaf=_is_quantised
  )


def _narrow(moments: Tree, like: Tree) -> Tree:
  def one(old: Any, new: jax.Array) -> Any:
    if not _is_quantised(old):
      return new
    codes, absmax = quantise(new, old.box, old.signed)
    return Quantised(codes, absmax, old.box, old.signed)

  return jax.tree.map(one, like, moments, is_leaf=_is_quantised)
