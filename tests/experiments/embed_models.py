"""Small models with random weights for the tests of embeddings, each made once."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from dasheng_jax.config import ComputeConfig, DashengConfig, DecoderConfig, EncoderConfig
from dasheng_jax.weights.load import encoder_shapes
from dasheng_jax.weights.table import flatten, unflatten
from mobile_jax.config import DyMNConfig, MNConfig
from mobile_jax.network import shapes

# The kernels in C++ would be compiled first; they are tested where they live.
MN = MNConfig(width=0.1, classes=20).with_compute(kernels="xla")
# Few dynamic parts trace fast: what is tested is the way from file to embedding.
DYMN = DyMNConfig(width=0.1, classes=20, dynamic="replace_se", convs=(), relus=()).with_compute(
  kernels="xla"
)
DASHENG = DashengConfig(
  encoder=EncoderConfig(width=16, depth=2, heads=2, positions=12),
  decoder=DecoderConfig(width=8, depth=2, heads=2),
  compute=ComputeConfig(scan=True),
)


def drawn(shapes):
  """Variables that keep activations near 1; compiling an initialiser would take longer."""
  draw = np.random.default_rng(0)
  flat = {}
  for path, leaf in flatten(shapes).items():
    if path.endswith(("scale", "var")):
      value = draw.uniform(0.8, 1.2, leaf.shape)
    elif "kernel" in path and len(leaf.shape) > 1:
      value = draw.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
    else:
      value = draw.normal(0, 0.1, leaf.shape)
    flat[path] = jnp.asarray(value, leaf.dtype)
  return unflatten(flat)


@functools.cache
def mobile(cfg):
  """Variables of MN or DYMN."""
  return drawn(shapes(cfg))


@functools.cache
def dasheng():
  """Variables of DASHENG's encoder."""
  return drawn(encoder_shapes(DASHENG))


def noise(samples: int, seed: int = 0, scale: float = 0.3) -> np.ndarray:
  """Noise whose loudness wanders, f32[samples]."""
  draw = np.random.default_rng(seed)
  loudness = np.interp(np.arange(samples), np.linspace(0, samples, 9), draw.uniform(0, 1, 9))
  return (scale * loudness * draw.uniform(-1, 1, samples)).astype(np.float32)


def with_clamp(cfg, clamp):
  return dataclasses.replace(cfg, mel=dataclasses.replace(cfg.mel, clamp=clamp))
