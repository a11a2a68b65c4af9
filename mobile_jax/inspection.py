"""What a trained DyMN loses when one part of its dynamics is disturbed (paper, table XII).

    with disturbed("ca_time", key):
      outputs = infer(cfg, variables, log_mel)

The disturbances reach into the modules as they are called, so that the network itself knows nothing
of them and any checkpoint can be looked at. Every block draws its own permutation from the key.

    coordinate attention   ca_context     gates of another clip of the batch
                           ca_channel     gates of another channel
                           ca_spatial     gates of another place on both axes
                           ca_time        of another time, ca_frequency: of another frequency
    Dy-Conv                conv_context   kernels mixed for another clip
                           conv_attention the K weights dealt out to other kernels
                           conv_uniform   all kernels alike; conv_max: the likeliest alone
    Dy-ReLU                relu_context   coefficients of another clip
                           relu_channel   coefficients of another channel

Source: arXiv 2310.15648, table XII and figure 6; reference text of MN and DyMN, section 13.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dasheng_jax.config import unknown_name
from dasheng_jax.errors import ConfigError
from mobile_jax.config import DyMNConfig
from mobile_jax.dynamic import Context, ContextOutputs, DynamicConvNorm, DynamicRelu
from mobile_jax.network import Variables, infer

Change = Callable[[Any, jax.Array], Any]


class Disturbance(NamedTuple):
  """One row of table XII.

  Attributes:
    part: "coordinate attention", "Dy-Conv" or "Dy-ReLU".
    what: in the paper's words or near them.
    paper: mAP in percent that is left of 47.8.
    module, method: whose results are changed.
    change: (result, key) -> result.
  """

  part: str
  what: str
  paper: float
  module: type[nn.Module]
  method: str
  change: Change


def _permuted(x: jax.Array | None, key: jax.Array, axis: int) -> jax.Array | None:
  return x if x is None else jax.random.permutation(key, x, axis=axis)


def _gates(*axes: tuple[str, int]) -> Change:
  """Permutes gates of coordinate attention: (field, axis), with a key for each field."""

  def change(outputs: ContextOutputs, key: jax.Array) -> ContextOutputs:
    keys = jax.random.split(key, len(axes))
    for i, (field, axis) in enumerate(axes):
      gate = _permuted(getattr(outputs, field), keys[i], axis)
      outputs = outputs._replace(time=gate) if field == "time" else outputs._replace(frequency=gate)
    return outputs

  return change


def _same_for_both(axis: int) -> Change:
  """One permutation for both gates, which belong to the same clips and channels."""

  def change(outputs: ContextOutputs, key: jax.Array) -> ContextOutputs:
    return outputs._replace(
      frequency=_permuted(outputs.frequency, key, axis), time=_permuted(outputs.time, key, axis)
    )

  return change


def _shuffle(axis: int) -> Change:
  return lambda x, key: jax.random.permutation(key, x, axis=axis)


def _dealt_anew(shares: Float[Array, "b n"], key: jax.Array) -> Float[Array, "b n"]:
  """Every clip's weights in an order of its own."""
  return jax.random.permutation(key, shares, axis=1, independent=True)


def _uniform(shares: Float[Array, "b n"], key: jax.Array) -> Float[Array, "b n"]:
  del key
  return jnp.full_like(shares, 1.0 / shares.shape[1])


def _likeliest(shares: Float[Array, "b n"], key: jax.Array) -> Float[Array, "b n"]:
  del key
  return jax.nn.one_hot(jnp.argmax(shares, axis=1), shares.shape[1], dtype=shares.dtype)


_CA, _CONV, _RELU = "coordinate attention", "Dy-Conv", "Dy-ReLU"
_CALL = "__call__"
DISTURBANCES: dict[str, Disturbance] = {
  "ca_context": Disturbance(_CA, "context shuffle", 19.6, Context, _CALL, _same_for_both(0)),
  "ca_channel": Disturbance(_CA, "channel shuffle", 2.5, Context, _CALL, _same_for_both(2)),
  "ca_spatial": Disturbance(
    _CA, "spatial shuffle", 12.5, Context, _CALL, _gates(("frequency", 1), ("time", 1))
  ),
  "ca_time": Disturbance(_CA, "time shuffle", 35.7, Context, _CALL, _gates(("time", 1))),
  "ca_frequency": Disturbance(
    _CA, "frequency shuffle", 22.0, Context, _CALL, _gates(("frequency", 1))
  ),
  "conv_context": Disturbance(
    _CONV, "context shuffle", 43.7, DynamicConvNorm, "shares", _shuffle(0)
  ),
  "conv_attention": Disturbance(
    _CONV, "attention shuffle", 43.4, DynamicConvNorm, "shares", _dealt_anew
  ),
  "conv_uniform": Disturbance(_CONV, "uniform", 45.3, DynamicConvNorm, "shares", _uniform),
  "conv_max": Disturbance(_CONV, "maximum", 39.5, DynamicConvNorm, "shares", _likeliest),
  "relu_context": Disturbance(_RELU, "context shuffle", 32.5, DynamicRelu, _CALL, _shuffle(0)),
  "relu_channel": Disturbance(_RELU, "channel shuffle", 3.5, DynamicRelu, _CALL, _shuffle(1)),
}
UNDISTURBED_PAPER = 47.8  # mAP in percent of the network that table XII disturbs


def disturbance(name: str) -> Disturbance:
  """One by name; ConfigError answers a wrong one with the nearest right ones."""
  if name not in DISTURBANCES:
    raise ConfigError(unknown_name("disturbance", name, DISTURBANCES))
  return DISTURBANCES[name]


@contextlib.contextmanager
def disturbed(name: str, key: jax.Array) -> Iterator[None]:
  """Within it, a DyMN runs with one part disturbed; trace and call the network inside."""
  row = disturbance(name)

  def intercept(next_call, args, kwargs, call):
    result = next_call(*args, **kwargs)
    if not isinstance(call.module, row.module) or call.method_name != row.method:
      return result
    path = "/".join(call.module.path)
    return row.change(result, jax.random.fold_in(key, zlib.crc32(path.encode())))

  with nn.intercept_methods(intercept):
    yield


def applies(name: str, cfg: DyMNConfig) -> bool:
  """Whether a network has the part that is disturbed."""
  part = disturbance(name).part
  if cfg.dynamic == "none":
    return False
  if part == _CA:
    axis = name.removeprefix("ca_")
    other = {"time": "frequency", "frequency": "time"}.get(axis)
    return cfg.attention == "coordinate" and cfg.attention_axes != other
  return bool(cfg.convs if part == _CONV else cfg.relus)


def relu_coefficients(
  cfg: DyMNConfig, variables: Variables, log_mel: Float[Array, "b f frames"]
) -> dict[str, jax.Array]:
  """Coefficients f32[b, c, 2 M] of every Dy-ReLU by its path: M slopes, then M intercepts.

  y = max over m of slope_m x + intercept_m. The points of figure 6 lie on these lines.
  """
  found: dict[str, jax.Array] = {}

  def intercept(next_call, args, kwargs, call):
    result = next_call(*args, **kwargs)
    if isinstance(call.module, DynamicRelu) and call.method_name == _CALL:
      found["/".join(call.module.path)] = result
    return result

  with nn.intercept_methods(intercept):
    infer(cfg, variables, log_mel)
  return found
