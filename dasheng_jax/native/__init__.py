"""Kernels of transformer blocks and of their optimiser for the CPU: C++, called through `jax.ffi`.

An optional accelerator: the first use compiles the sources beside this file with the system's C++
compiler, and without one everything runs on XLA alone. Importing this package compiles nothing and
imports nothing heavy; `build` makes the library (and that of `mobile_jax.native`, which shares the
tools here), `kernels` has the layers, with gradients, `update` AdamW.
"""

from dasheng_jax.lazy import lazily

_HOME = {
  "adamw": "update",
  "adamw_numbers": "update",
  "adamw_sums": "update",
  "attention": "kernels",
  "available": "kernels",
  "dense": "kernels",
  "is_product": "calls",
  "mlp": "kernels",
  "on_one_cpu": "kernels",
  "takes": "kernels",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
