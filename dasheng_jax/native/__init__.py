"""Kernels of the transformer blocks for the CPU, written in C++ and called through `jax.ffi`.

An optional accelerator: the first use compiles the sources beside this file with the system's C++
compiler, and without one everything runs on XLA alone. Importing this package compiles nothing and
imports nothing heavy; `build` makes the library (and that of `mobile_jax.native`, which shares the
tools here), `kernels` has the calls, with gradients.
"""

from dasheng_jax.lazy import lazily

_HOME = {
  "attention": "kernels",
  "available": "kernels",
  "dense": "kernels",
  "mlp": "kernels",
  "takes": "kernels",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
