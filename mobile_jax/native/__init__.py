"""Kernels of inference and training for the CPU, written in C++ and called through `jax.ffi`.

An optional accelerator of the audio CNNs: the first use compiles the sources beside this file with
the system's C++ compiler, and without one everything runs on XLA alone. Importing this package
compiles nothing and imports nothing heavy; see `build` for how and where the library is made, and
`kernels` and, with gradients, `training` for the calls.

All maps are float32 and channels-last: `[clip, frequency, time, channel]`.
"""

from dasheng_jax.lazy import lazily

_HOME = {
  "ACTIVATIONS": "kernels",
  "available": "build",
  "axis_means": "kernels",
  "dense": "kernels",
  "depthwise": "training",
  "expand_depthwise": "kernels",
  "multiply": "training",
  "normalise": "training",
  "normalised_depthwise": "training",
  "pointwise": "kernels",
  "pointwise_mean": "kernels",
  "stem": "kernels",
  "stem_convolution": "training",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
