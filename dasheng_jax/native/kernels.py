"""The transformer's products and attention on a CPU: JAX functions with gradients, done in C++.

All is float32, and gives the same numbers whatever the number of threads. Reverse mode only:
`jax.jvp` of these raises. `jax.vmap` runs the mapped axis one element after the other. A program
that `jax.export` stores, or that is lowered for a GPU or TPU, holds XLA's own operations in their
place. Ask `takes` first: what it refuses raises ValueError here.
"""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from dasheng_jax.native.build import Library
from dasheng_jax.native.calls import GELU, NONE, call

LIBRARY = Library(
  "dasheng_jax",
  pathlib.Path(__file__).parent,
  (
    "dasheng_product",
    "dasheng_product_gradient",
    "dasheng_attention",
    "dasheng_attention_gradient",
    "dasheng_adamw_sums",
    "dasheng_adamw",
  ),
)
available = LIBRARY.available

WIDTH = 16  # as in transformer.h: numbers of columns are multiples of it
# The published sizes are all wider. Narrower stacks would gain too (docs/performance.md), but their
# roundings, which small runs and recorded curves were made with, would change.
LEAST_WIDTH = 256


def takes(x: jax.Array, *widths: int) -> bool:
  """True where layers of these widths, inner ones included, are handed over for an input x [.., d].

  On one CPU device alone, which `on_one_cpu` must be able to see.
  """
  fitting = all(width % WIDTH == 0 for width in widths) and x.shape[-1] >= LEAST_WIDTH
  if not fitting or x.dtype != jnp.float32 or x.size == 0:
    return False
  return on_one_cpu()


def on_one_cpu() -> bool:
  """True while tracing for one CPU device, with the kernels at hand.

  XLA does not split a foreign call over a mesh but gathers its operands and gives every device the
  whole work. Programs for several devices are to be called under `jax.set_mesh`, as those of the
  trainer are: arrays alone do not tell while a program is traced.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return (mesh.empty or mesh.size == 1) and available()


def dense(
  x: Float32[Array, "b t i"], kernel: Float32[Array, "i o"], bias: Float32[Array, " o"]
) -> Float32[Array, "b t o"]:
  """X @ kernel + bias."""
  _check(
    x, {"kernel": (kernel, (x.shape[-1], kernel.shape[-1])), "bias": (bias, kernel.shape[-1:])}
  )
  return _dense(x, kernel, bias)


@jax.custom_vjp
def _dense(x, kernel, bias):
  return _dense_forward(x, kernel, bias)[0]


def _dense_forward(x, kernel, bias):
  x, kernel, bias = jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(bias)
  return _product(x, kernel, bias)[0], (x, kernel)


def _dense_backward(saved, dy):
  x, kernel = saved
  return (_product(dy, kernel, turned=True)[0], *_kernel_gradient(x, dy))


_dense.defvjp(_dense_forward, _dense_backward)


def mlp(
  x: Float32[Array, "b t d"],
  up_kernel: Float32[Array, "d h"],
  up_bias: Float32[Array, " h"],
  down_kernel: Float32[Array, "h d"],
  down_bias: Float32[Array, " d"],
) -> Float32[Array, "b t d"]:
  """gelu(x @ up_kernel + up_bias) @ down_kernel + down_bias, GELU in its exact (erf) form.

  GELU and its slope ride on the products, so the wide activations are written and read once.
  """
  width, hidden = x.shape[-1], up_kernel.shape[-1]
  _check(
    x,
    {
      "up_kernel": (up_kernel, (width, hidden)),
      "up_bias": (up_bias, (hidden,)),
      "down_kernel": (down_kernel, (hidden, width)),
      "down_bias": (down_bias, (width,)),
    },
  )
  return _mlp(x, up_kernel, up_bias, down_kernel, down_bias)


@jax.custom_vjp
def _mlp(x, up_kernel, up_bias, down_kernel, down_bias):
  hidden, _ = _product(x, up_kernel, up_bias, activation=GELU)
  return _product(hidden, down_kernel, down_bias)[0]


def _mlp_forward(x, up_kernel, up_bias, down_kernel, down_bias):
  operands = [jnp.asarray(a) for a in (x, up_kernel, up_bias, down_kernel, down_bias)]
  x, up_kernel, up_bias, down_kernel, down_bias = operands
  hidden, before = _product(x, up_kernel, up_bias, activation=GELU, keep_before=True)
  y, _ = _product(hidden, down_kernel, down_bias)
  return y, (x, up_kernel, down_kernel, hidden, before)


def _mlp_backward(saved, dy):
  x, up_kernel, down_kernel, hidden, before = saved
  dbefore, _ = _product(dy, down_kernel, turned=True, slope_at=before)
  dx, _ = _product(dbefore, up_kernel, turned=True)
  return (dx, *_kernel_gradient(x, dbefore), *_kernel_gradient(hidden, dy))


_mlp.defvjp(_mlp_forward, _mlp_backward)


def attention(
  qkv: Float32[Array, "b t 3 h c"], keep: Bool[Array, "b t"] | None = None
) -> Float32[Array, "b t h c"]:
  """softmax(q k / sqrt(c)) v per clip and head; see `dasheng_jax.attention.attend` for `keep`."""
  _check(qkv, {"qkv": (qkv, (*qkv.shape[:2], 3, *qkv.shape[3:]))})
  if keep is None:
    return _attention(qkv, jnp.zeros((0,), jnp.float32))
  return _attention(qkv, keep.astype(jnp.float32))


@jax.custom_vjp
def _attention(qkv, keep):
  return _attention_forward(qkv, keep)[0]


def _attention_forward(qkv, keep):
  qkv, keep = jnp.asarray(qkv), jnp.asarray(keep)
  b, t, _, h, c = qkv.shape
  (out,) = call("dasheng_attention", [(b, t, h, c)], qkv, keep)
  return out, (qkv, keep)


def _attention_backward(saved, dout):
  qkv, keep = saved
  # The weights are made again from queries and keys: they are larger than these.
  (dqkv,) = call("dasheng_attention_gradient", [qkv.shape], qkv, keep, dout)
  return dqkv, None


_attention.defvjp(_attention_forward, _attention_backward)


def _product(
  x, kernel, bias=None, *, turned=False, activation=NONE, slope_at=None, keep_before=False
):
  """(y, what went into the activation or nothing); turned: the kernel's transpose is meant."""
  shape = (*x.shape[:-1], kernel.shape[0 if turned else 1])
  nothing = jnp.zeros((0,), jnp.float32)
  optional = [nothing if a is None else a for a in (bias, slope_at)]
  return call(
    "dasheng_product",
    [shape, shape if keep_before else (0,)],
    x,
    kernel,
    *optional,
    turned=int(turned),
    activation=activation,
  )


def _kernel_gradient(x, dy):
  """(gradient of the kernel, of the bias)."""
  shapes = [(x.shape[-1], dy.shape[-1]), dy.shape[-1:]]
  return call("dasheng_product_gradient", shapes, x, dy)


def _check(x, wanted) -> None:
  """ValueError for what C++ would take for something else."""
  if not available():
    raise RuntimeError("the native kernels are not there: ask takes() first")
  for name, (value, shape) in {"x": (x, x.shape), **wanted}.items():
    if value.shape != shape:
      raise ValueError(f"{name} has shape {value.shape}, want {shape}")
    if value.dtype != jnp.float32:
      raise ValueError(f"{name} has dtype {value.dtype}, want float32")
    if value.size == 0 or value.shape[-1] % WIDTH:
      raise ValueError(f"{name} of shape {value.shape}: its last axis is no multiple of {WIDTH}")
