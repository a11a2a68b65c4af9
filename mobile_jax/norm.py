"""Batch normalisation with PyTorch's rule for the running variance, foldable into a convolution."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax.config import Activation
from mobile_jax.ops import ACTIVATIONS, has_native

Form = Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
_momentum: contextvars.ContextVar[float | None] = contextvars.ContextVar("momentum", default=None)


@contextlib.contextmanager
def running_momentum(momentum: float | None) -> Iterator[None]:
  """Within it, while a training step is traced, running statistics move by this share of a batch's.

  None leaves each norm its own. The released 0.01 forgets the start after some hundred steps: a
  network that begins from random weights and trains no longer than that is judged by statistics
  that are still those of the start.
  """
  token = _momentum.set(momentum)
  try:
    yield
  finally:
    _momentum.reset(token)


class BatchNorm(nn.Module):
  """Normalises the last axis over all the others (reference text, section 0, point 2).

  Training uses the batch's mean and biased variance and moves the running variance towards the
  unbiased one, which Flax's own BatchNorm does not. Under jit the batch is the global one: one set
  of statistics on any mesh. State, in the collection "batch_stats": mean f32[c], var f32[c], count
  i32[] (batches seen). momentum is PyTorch's: running = (1 - momentum) running + momentum batch.
  """

  channels: int
  eps: float = 1e-3
  momentum: float = 0.01
  kernels: str = "xla"

  def setup(self):
    """Scale and bias, and the running statistics."""
    size = (self.channels,)
    self.scale = self.param("scale", nn.initializers.ones, size)
    self.bias = self.param("bias", nn.initializers.zeros, size)
    self.mean = self.variable("batch_stats", "mean", jnp.zeros, size)
    self.var = self.variable("batch_stats", "var", jnp.ones, size)
    self.count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)

  def __call__(
    self, x: Float[Array, "*axes c"], train: bool = False, activation: Activation = "none"
  ) -> Float[Array, "*axes c"]:
    """Normalised with the batch's statistics in training, with the running ones otherwise.

    activation: what follows; one pass over the map does both.
    """
    if not train:
      scale, bias = self.folded()
      return ACTIVATIONS[activation](x * _wide(scale, x) + _wide(bias, x))
    x = x.astype(jnp.float32)
    if has_native(x, self.kernels, activation):
      from mobile_jax import native

      return self.through(x, functools.partial(native.normalise, activation=activation))
    return self.through(x, functools.partial(_normalise, activation=activation))

  def through(self, x: Float[Array, "*axes c"], form: Form) -> jax.Array:
    """What a form of normalisation by the batch makes of x; its statistics are noted.

    form: (x, scale, bias, eps=) -> (result, mean f32[c], biased variance f32[c]).
    """
    y, mean, var = form(x, self.scale, self.bias, eps=self.eps)
    if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
      values = x.size // self.channels
      unbiased = var * (values / max(values - 1, 1))
      told = _momentum.get()
      momentum = self.momentum if told is None else told
      keep = 1 - momentum
      self.mean.value = keep * self.mean.value + momentum * mean
      self.var.value = keep * self.var.value + momentum * unbiased
      self.count.value = self.count.value + 1
    return y

  def folded(self) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """(scale, bias) of inference: x * scale + bias. A convolution before it can take both in."""
    scale = self.scale * jax.lax.rsqrt(self.var.value + self.eps)
    return scale, self.bias - self.mean.value * scale


def _normalise(
  x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, activation: Activation
) -> tuple[jax.Array, jax.Array, jax.Array]:
  axes = tuple(range(x.ndim - 1))
  mean = jnp.mean(x, axis=axes)
  centred = x - _wide(mean, x)
  var = jnp.mean(jnp.square(centred), axis=axes)
  scale = scale * jax.lax.rsqrt(var + eps)
  return ACTIVATIONS[activation](centred * _wide(scale, x) + _wide(bias, x)), mean, var


def _wide(vector: jax.Array, x: jax.Array) -> jax.Array:
  return vector.reshape((1,) * (x.ndim - 1) + vector.shape)
