"""CP-Mobile once more, as a walk whose steps an arithmetic takes: float, simulated or integer.

    log-mel[b, f, t] -> input -> stem -> second -> six blocks -> head -> mean -> logits[b, classes]
    block: expand -> depthwise -> project -> + shortcut -> GRN (float) -> ReLU

Every arrow into a name is a point at which activations are quantised; `points` lists them.
"""

from __future__ import annotations

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax.cp_mobile import response_norm
from mobile_jax.ops import average_pool, dense, depthwise, per_channel, pointwise, stem
from mobile_jax.quantised.fold import Convolution, Folded, at, convolutions
from mobile_jax.scene_config import CPMobileConfig


def points(cfg: CPMobileConfig) -> tuple[str, ...]:
  """Names of the points: the input, every convolution, and every block's sum and response norm.

  34 of the published student. A block without a shortcut has a sum that nothing passes.
  """
  blocks = [f"block_{block.number}/{name}" for block in cfg.blocks for name in ("sum", "response")]
  return ("input", *(one.name for one in convolutions(cfg)), *blocks)


class Arithmetic(abc.ABC):
  """What a walk does with maps; each step ends at the point of its name."""

  @abc.abstractmethod
  def enter(self, log_mel: jax.Array) -> Any:
    """[b, f, t] -> the map [b, f, t, 1] of the point "input"."""

  @abc.abstractmethod
  def convolve(self, x: Any, which: Convolution) -> Any:
    """Convolved, with bias and the convolution's ReLU."""

  @abc.abstractmethod
  def pool(self, x: Any, stride: tuple[int, int]) -> Any:
    """The mean of 3 x 3 cells; has no point of its own."""

  @abc.abstractmethod
  def add(self, x: Any, y: Any, name: str) -> Any:
    """Sum of two maps."""

  @abc.abstractmethod
  def respond(self, x: Any, name: str) -> Any:
    """Response norm, in float."""

  @abc.abstractmethod
  def relu(self, x: Any) -> Any:
    """Of what is at its point already; has none of its own."""

  @abc.abstractmethod
  def leave(self, x: Any) -> jax.Array:
    """The mean over the map as float32 logits."""


def walk(cfg: CPMobileConfig, how: Arithmetic, log_mel: Float[Array, "b f t"]) -> Any:
  """Logits f32[b, classes] of normalised log-mels."""
  steps = {one.name: one for one in convolutions(cfg)}
  x = how.enter(log_mel)
  for name in ("stem", "second"):
    x = how.convolve(x, steps[name])
  for block in cfg.blocks:
    name, y = f"block_{block.number}", x
    for part in ("expand", "depthwise", "project"):
      y = how.convolve(y, steps[f"{name}/{part}"])
    match block.shortcut:
      case "identity":
        y = how.add(y, x, f"{name}/sum")
      case "pool":
        y = how.add(y, how.pool(x, block.stride), f"{name}/sum")
    x = how.relu(how.respond(y, f"{name}/response"))
  return how.leave(how.convolve(x, steps["head"]))


class FloatArithmetic(Arithmetic):
  """The folded network in float32; `at_point` and `kernel_of` are where a simulation steps in."""

  def __init__(self, folded: Folded, kernels: str = "auto"):
    self.folded, self.kernels = folded, kernels

  def at_point(self, x: jax.Array, name: str) -> jax.Array:
    """What a point makes of a map."""
    del name
    return x

  def kernel_of(self, kernel: jax.Array) -> jax.Array:
    """The kernel to convolve with."""
    return kernel

  def enter(self, log_mel: jax.Array) -> jax.Array:
    """See `Arithmetic`."""
    return self.at_point(log_mel.astype(jnp.float32), "input")[..., None]

  def convolve(self, x: jax.Array, which: Convolution) -> jax.Array:
    """See `Arithmetic`."""
    params = at(self.folded, which.name)
    kernel = self.kernel_of(params["kernel"])
    match which.kind:
      case "stem":
        y = stem(x[..., 0], kernel, self.kernels)
      case "dense":
        y = dense(x, kernel, which.stride[0], 1)
      case "pointwise":
        y = pointwise(x, kernel, self.kernels)
      case _:
        y = depthwise(x, kernel, which.stride, 1, self.kernels)
    y = y + per_channel(params["bias"])
    return self.at_point(jax.nn.relu(y) if which.relu else y, which.name)

  def pool(self, x: jax.Array, stride: tuple[int, int]) -> jax.Array:
    """See `Arithmetic`."""
    return average_pool(x, stride)

  def add(self, x: jax.Array, y: jax.Array, name: str) -> jax.Array:
    """See `Arithmetic`."""
    return self.at_point(x + y, name)

  def respond(self, x: jax.Array, name: str) -> jax.Array:
    """See `Arithmetic`."""
    params = at(self.folded, name)
    return self.at_point(response_norm(x, params["gamma"], params["beta"]), name)

  def relu(self, x: jax.Array) -> jax.Array:
    """See `Arithmetic`."""
    return jax.nn.relu(x)

  def leave(self, x: jax.Array) -> jax.Array:
    """See `Arithmetic`."""
    return jnp.mean(x, axis=(1, 2))


def float_logits(
  cfg: CPMobileConfig, folded: Folded, log_mel: Float[Array, "b f t"]
) -> Float[Array, "b classes"]:
  """Of the folded network in float32, nothing quantised."""
  return walk(cfg, FloatArithmetic(folded, cfg.compute.kernels), log_mel)
