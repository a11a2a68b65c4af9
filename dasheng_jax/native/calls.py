"""Calls of the kernels, and what stands for them where a program cannot hold a foreign call.

One primitive for all of them, with two lowerings: on a CPU it becomes the call; on any other
platform, and in a program that `jax.export` stores, the same layer of XLA's own operations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching, mlir

NONE, GELU = 0, 4  # activations, as in simd.h
_SWITCH = "DASHENG_JAX_NATIVE"  # as in build.Library.switch


def no_derivative(target: str, switch: str) -> NotImplementedError:
  """The error of a derivative that a kernel lacks; `switch` is its library's."""
  return NotImplementedError(
    f"{target} has no derivative: the C++ kernels have reverse mode, and that once only; XLA's "
    f"operations have every other: kernels='xla' in ComputeConfig, or {switch}=0 in the environment"
  )


def call(target: str, shapes: list[tuple[int, ...]], *operands: jax.Array, **attributes: int):
  """The results, all float32, of these shapes. `jax.vmap` runs one element after the other."""
  return _layer.bind(*operands, target=target, shapes=tuple(map(tuple, shapes)), **attributes)


def is_product(primitive: jax.extend.core.Primitive, params: dict[str, Any]) -> bool:
  """Whether an equation of a traced program is the product of a dense layer or of half an MLP."""
  return primitive is _layer and params["target"] == "dasheng_product"


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


def _adamw_sums(numbers, params, mean, square, gradient, *, shapes):
  del shapes
  after, _, _ = _updated(numbers, params, mean, square, gradient)
  return (jnp.stack([jnp.sum(x * x) for x in (gradient, after, params)]),)


def _adamw(numbers, params, mean, square, gradient, *, shapes):
  del shapes
  new = _updated(numbers, params, mean, square, gradient)
  good = numbers[-1] != 0
  return tuple(jnp.where(good, x, old) for x, old in zip(new, (params, mean, square), strict=True))


def _updated(numbers, params, mean, square, gradient):
  rate, mean_scale, root_scale, mean_share, kept, square_share, eps, decay, _ = numbers
  mean = mean + mean_share * (gradient - mean)
  square = kept * square + square_share * gradient * gradient
  direction = mean * mean_scale / (jnp.sqrt(square) * root_scale + eps) + decay * params
  return params - rate * direction, mean, square


_PLAIN: dict[str, Callable[..., Any]] = {
  "dasheng_product": _product,
  "dasheng_product_gradient": _product_gradient,
  "dasheng_attention": _attention,
  "dasheng_attention_gradient": _attention_gradient,
  "dasheng_adamw_sums": _adamw_sums,
  "dasheng_adamw": _adamw,
}
# Operand -> the result that takes its memory.
_IN_PLACE: dict[str, dict[int, int]] = {"dasheng_adamw": {1: 0, 2: 1, 3: 2}}

# By the end of this name the counter of `mobile_jax.complexity` knows what it cannot look into.
_layer = jax.extend.core.Primitive("dasheng_native")
_layer.multiple_results = True


def _plain(*operands, target: str, **static):
  return _PLAIN[target](*operands, **static)


def _as_call(ctx: Any, *operands: Any, target: str, shapes: Any, **attributes: int):
  if ctx.module_context.lowering_parameters.for_export:
    return _as_operations(ctx, *operands, target=target, shapes=shapes, **attributes)
  numbers = {name: np.int64(value) for name, value in attributes.items()}
  lowering = jax.ffi.ffi_lowering(target, operand_output_aliases=_IN_PLACE.get(target))
  return lowering(ctx, *operands, **numbers)


_as_operations: Any = mlir.lower_fun(_plain, multiple_results=True)
mlir.register_lowering(_layer, _as_operations)
mlir.register_lowering(_layer, _as_call, platform="cpu")


def _refuse(primals, tangents, *, target: str, **static):
  del primals, tangents, static
  raise no_derivative(target, _SWITCH)


ad.primitive_jvps[_layer] = _refuse


@_layer.def_abstract_eval
def _(*operands, shapes, **static):
  del operands, static
  return [jax.core.ShapedArray(shape, jnp.float32) for shape in shapes]


def _one_after_the_other(operands, axes, **static):
  mapped = [jnp.moveaxis(x, d, 0) for x, d in zip(operands, axes, strict=True) if d is not None]

  def one(slices):
    taken = iter(slices)
    return _layer.bind(
      *(x if d is None else next(taken) for x, d in zip(operands, axes, strict=True)), **static
    )

  results = jax.lax.map(one, mapped)
  return results, [0] * len(results)


batching.primitive_batchers[_layer] = _one_after_the_other


@_layer.def_impl
def _(*operands, **static):
  return _compiled(tuple(sorted(static.items())))(*operands)


@functools.cache
def _compiled(static):
  return jax.jit(lambda *operands: _layer.bind(*operands, **dict(static)))
