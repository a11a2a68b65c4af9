"""The library of these kernels; `dasheng_jax.native.build` compiles and loads it."""

import pathlib

from dasheng_jax.native.build import Library

LIBRARY = Library(
  "mobile_jax",
  pathlib.Path(__file__).parent,
  (
    "mobile_expand_depthwise",
    "mobile_pointwise",
    "mobile_axis_means",
    "mobile_stem",
    "mobile_stem_patches",
    "mobile_dense",
    "mobile_depthwise_input_gradient",
    "mobile_depthwise_kernel_gradient",
    "mobile_pointwise_kernel_gradient",
    "mobile_norm_statistics",
    "mobile_norm_apply",
    "mobile_norm_gradient_sums",
    "mobile_norm_gradient",
  ),
)
available = LIBRARY.available
