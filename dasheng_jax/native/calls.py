"""Calls of the kernels, and what stands for them where a program cannot hold a foreign call.

One primitive for all four, with two lowerings: on a CPU it becomes the call; on any other platform,
and in a program that `jax.export` stores, the same layer of XLA's own operations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.interpreters import mlir

NONE, GELU = 0, 4  # activations, as in simd.h


def call(target: str, shapes: list[tuple[int, ...]], *operands: jax.Array, **attributes: int):
  """The results, all float32, of these shapes. `jax.vmap` runs one element after the other."""
  static = {"target": target, "shapes": tuple(map(tuple, shapes)), **attributes}

  @jax.custom_batching.sequential_vmap
  def bind(*operands):
    return _layer.bind(*operands, **static)

  return bind(*operands)


def _product(x, kernel, bias, slope_at, *, shapes, turned, activation):
  y = jnp.matmul(x, kernel.T if turned else kernel)
  if bias.size:
    y = y + bias[None, None]
  before = y if shapes[1] != (0,) else jnp.zeros((0,), jnp.float32)
  if activation == GELU:
    y = jax.nn.gelu(y, approximate=False)
  if slope_at.size:
    _, slope = jax.jvp(
      lambda v: jax.nn.gelu(v, approximate=False), (slope_at,), (jnp.ones_like(slope_at),)
    )
    y = y * slope
  return y, before


def _product_gradient(x, dy, *, shapes):
  del shapes
  return jnp.einsum("bti,bto->io", x, dy), jnp.sum(dy, axis=(0, 1))


def _attention(qkv, keep, *, shapes):
  del shapes
  return (_attended(qkv, keep),)


def _attention_gradient(qkv, keep, dout, *, shapes):
  del shapes
  return jax.vjp(lambda qkv: _attended(qkv, keep), qkv)[1](dout)


def _attended(qkv, keep):
  from dasheng_jax.attention import attend  # which hands its work over to here

  q, k, v = (qkv[:, :, i] for i in range(3))
  return attend(q, k, v, keep > 0 if keep.size else None, "xla")


_PLAIN: dict[str, Callable[..., Any]] = {
  "dasheng_product": _product,
  "dasheng_product_gradient": _product_gradient,
  "dasheng_attention": _attention,
  "dasheng_attention_gradient": _attention_gradient,
}

_layer = jax.extend.core.Primitive("dasheng_native")
_layer.multiple_results = True


def _plain(*operands, target: str, **static):
  return _PLAIN[target](*operands, **static)


def _as_call(ctx: Any, *operands: Any, target: str, shapes: Any, **attributes: int):
  if ctx.module_context.lowering_parameters.for_export:
    return _as_operations(ctx, *operands, target=target, shapes=shapes, **attributes)
  numbers = {name: np.int64(value) for name, value in attributes.items()}
  return jax.ffi.ffi_lowering(target)(ctx, *operands, **numbers)


_as_operations: Any = mlir.lower_fun(_plain, multiple_results=True)
mlir.register_lowering(_layer, _as_operations)
mlir.register_lowering(_layer, _as_call, platform="cpu")


@_layer.def_abstract_eval
def _(*operands, shapes, **static):
  del operands, static
  return [jax.core.ShapedArray(shape, jnp.float32) for shape in shapes]


@_layer.def_impl
def _(*operands, **static):
  return _compiled(tuple(sorted(static.items())))(*operands)


@functools.cache
def _compiled(static):
  return jax.jit(lambda *operands: _layer.bind(*operands, **dict(static)))
