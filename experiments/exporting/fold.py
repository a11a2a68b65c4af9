"""Convolutions with the batch norm of inference worked into kernel and bias."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mobile_jax.cp_mobile import EPS


class Kernel(NamedTuple):
  """Kernel f32[k, k, c / groups, d] and bias f32[d]."""

  kernel: np.ndarray
  bias: np.ndarray


def folded(params: Any, stats: Any, eps: float = EPS) -> Kernel:
  """A convolution and the norm behind it as one.

  params: {"kernel", "norm": {"scale", "bias"}}, stats: {"norm": {"mean", "var"}}. A kernel [c, d]
  becomes [1, 1, c, d], one [k, k, c] of a depthwise convolution or of a single input channel
  [k, k, 1, c]. Computed in double.
  """
  kernel = np.asarray(params["kernel"], np.float64)
  norm = {k: np.asarray(v, np.float64) for k, v in {**params["norm"], **stats["norm"]}.items()}
  scale = norm["scale"] / np.sqrt(norm["var"] + eps)
  kernel = kernel * scale.reshape((1,) * (kernel.ndim - 1) + scale.shape)
  if kernel.ndim == 2:
    kernel = kernel[None, None]
  elif kernel.ndim == 3:
    kernel = kernel[:, :, None]
  bias = norm["bias"] - norm["mean"] * scale
  return Kernel(kernel.astype(np.float32), bias.astype(np.float32))
