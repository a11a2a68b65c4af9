"""BatchNorm over the mel bins, with PyTorch's rule for the running variance."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dasheng_jax.config import BatchNormGradient

EPS = 1e-5
# PyTorch's momentum 0.01: running = 0.99 running + 0.01 batch.
KEEP = 0.99


@jax.custom_vjp
def _affine_torch_cpu(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
  """Scale and shift per mel bin, with the gradients that PyTorch's CPU backward gives.

  torchaudio hands over its log-mel with the mel axis innermost in memory, and the gradient comes
  back from the patch convolution with time innermost. PyTorch's CPU batch norm (seen in 2.11 and
  2.13) then reads the buffer of that gradient in the wrong order, [f, frames] as if it were
  [frames, f], so scale and bias follow a scrambled gradient. Only of use to retrace a run that
  PyTorch made on a CPU.
  """
  return x * scale[None, :, None] + bias[None, :, None]


def _affine_forward(x, scale, bias):
  return _affine_torch_cpu(x, scale, bias), (x, scale)


def _affine_backward(saved, grad):
  x, scale = saved
  batch, bins, frames = grad.shape
  misread = grad.reshape(batch, frames, bins).swapaxes(1, 2)
  return (
    grad * scale[None, :, None],
    jnp.sum(misread * x, axis=(0, 2)),
    jnp.sum(misread, axis=(0, 2)),
  )


_affine_torch_cpu.defvjp(_affine_forward, _affine_backward)


class MelBatchNorm(nn.Module):
  """Normalises each mel bin (reference text, section 2).

  Training uses the batch's mean and biased variance over batch and time, and moves the running
  variance towards the unbiased one. Flax's own BatchNorm stores the biased variance, so it could
  not follow the released statistics. Under jit the batch is the global batch: one set of statistics
  on any mesh. State, in the collection "batch_stats": mean f32[f], var f32[f], count i32[] (batches
  seen). gradient: "exact", or "torch_cpu" for the defect described at `_affine_torch_cpu`. valid:
  frames that count in the statistics of training; None means all of them, as released.
  """

  gradient: BatchNormGradient = "exact"

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b f frames"],
    train: bool = False,
    valid: Bool[Array, "b frames"] | None = None,
  ) -> Float[Array, "b f frames"]:
    bins = x.shape[1]
    scale = self.param("scale", nn.initializers.ones, (bins,))
    bias = self.param("bias", nn.initializers.zeros, (bins,))
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, (bins,))
    running_var = self.variable("batch_stats", "var", jnp.ones, (bins,))
    count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
    if train:
      where = None if valid is None else valid[:, None, :]
      mean = jnp.mean(x, axis=(0, 2), where=where)
      var = jnp.mean(jnp.square(x - mean[None, :, None]), axis=(0, 2), where=where)
      if not self.is_initializing():
        values = x.shape[0] * x.shape[2] if valid is None else jnp.sum(valid)
        unbiased = var * (values / jnp.maximum(values - 1, 1))
        running_mean.value = KEEP * running_mean.value + (1 - KEEP) * mean
        running_var.value = KEEP * running_var.value + (1 - KEEP) * unbiased
        count.value = count.value + 1
    else:
      mean, var = running_mean.value, running_var.value
    normalised = (x - mean[None, :, None]) * jax.lax.rsqrt(var + EPS)[None, :, None]
    if self.gradient == "torch_cpu":
      return _affine_torch_cpu(normalised, scale, bias)
    return normalised * scale[None, :, None] + bias[None, :, None]
