"""Kernels of the transformer blocks for the CPU, written in C++ and called through `jax.ffi`.

An optional accelerator: the first use compiles the sources beside this file with the system's C++
compiler, and without one everything runs on XLA alone. Importing this package compiles nothing and
imports nothing heavy; `build` makes the library (and that of `mobile_jax.native`, which shares the
tools here), `kernels` has the calls, with gradients.
"""

import importlib

_HOME = {
  "attention": "kernels",
  "available": "kernels",
  "dense": "kernels",
  "mlp": "kernels",
  "takes": "kernels",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
  if name not in _HOME:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
