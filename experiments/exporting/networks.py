"""Networks in the form that runtimes fuse: each convolution with its norm, bias and ReLU at once.

`FORMS` is the table. A family without a form of its own is exported as `mobile_jax.network.infer`
traces it: the same numbers from more operations. A form takes numpy variables, so that all folding
happens here and none in the runtime.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.exporting import front_end
from experiments.exporting.fold import Kernel, folded
from experiments.training.errors import UsageError
from mobile_jax.families import Config, size_of
from mobile_jax.network import Variables, infer
from mobile_jax.scene_config import CPMobileConfig, CPResNetConfig
from pipelines.kaldi_mel import KaldiMelConfig

Network = Callable[[jax.Array], jax.Array]
# Parts of the file by the names of their operations, which the quantiser reads.
FRONT_END, NETWORK = "front_end", "network"


def network_of(cfg: Config, variables: Variables) -> Network:
  """Log-mel f32[b, f, frames] -> logits f32[b, classes]."""
  cfg = cfg.with_compute(kernels="xla", dtype="float32")
  form = FORMS.get(type(cfg), _traced)
  return functools.partial(form, cfg, jax.tree.map(np.asarray, variables))


def whole(cfg: Config, variables: Variables) -> Network:
  """Wave f32[b, s] at `cfg.mel.sample_rate` -> logits f32[b, classes], the front end inside.

  Raises UsageError for networks whose front end is in dB, which has no form for a file.
  """
  told = cfg.mel
  if not isinstance(told, KaldiMelConfig):
    raise UsageError(f"{size_of(cfg)} hears log-mels in dB, which no exported file has a form of")
  network = network_of(cfg, variables)

  def run(wave: Float[Array, "b s"]) -> Float[Array, "b classes"]:
    with jax.named_scope(FRONT_END):
      mel = front_end.log_mel(wave, told)
    with jax.named_scope(NETWORK):
      return network(mel)

  return run


def _traced(cfg: Config, variables: Variables, log_mel: jax.Array) -> jax.Array:
  return infer(cfg, variables, log_mel).logits


def convolved(
  x: jax.Array,
  weights: Kernel,
  stride: tuple[int, int] = (1, 1),
  *,
  padding: int | None = None,
  groups: int = 1,
) -> jax.Array:
  """With bias. padding: on every side; None keeps the size at stride 1."""
  pad = (weights.kernel.shape[0] - 1) // 2 if padding is None else padding
  y = jax.lax.conv_general_dilated(
    x,
    jnp.asarray(weights.kernel),
    stride,
    ((pad, pad), (pad, pad)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
    precision=front_end.EXACT,
  )
  return y + weights.bias[None, None, None]


def _cp_mobile(cfg: CPMobileConfig, variables: Variables, log_mel: jax.Array) -> jax.Array:
  """As `mobile_jax.cp_mobile` (reference text of the scene models, section 2)."""
  params, stats = variables["params"], variables["batch_stats"]
  x = log_mel[..., None]
  for name in ("stem", "second"):
    x = jax.nn.relu(convolved(x, folded(params[name], stats[name]), (2, 2)))
  for shape in cfg.blocks:
    mine, its = (tree[f"block_{shape.number}"] for tree in (params, stats))
    expand, depthwise, project = (
      folded(mine[part], its[part]) for part in ("expand", "depthwise", "project")
    )
    y = jax.nn.relu(convolved(x, expand))
    y = jax.nn.relu(convolved(y, depthwise, shape.stride, groups=shape.expanded))
    y = convolved(y, project)
    match shape.shortcut:
      case "identity":
        y = y + x
      case "pool":
        y = y + _average(x, shape.stride)
    x = jax.nn.relu(_response_norm(mine["response"], y))
  return _class_maps(folded(params["head"], stats["head"]), x)


def _average(x: jax.Array, stride: tuple[int, int]) -> jax.Array:
  """Nine cells by 9 wherever they stand, as a convolution: runtimes do not count the padding."""
  channels = x.shape[-1]
  ninth = np.full((3, 3, 1, channels), 1 / 9, np.float32)
  return convolved(x, Kernel(ninth, np.zeros(channels, np.float32)), stride, groups=channels)


def _response_norm(params: Any, x: jax.Array) -> jax.Array:
  gamma, beta = (float(params[name][0]) for name in ("gamma", "beta"))
  # Root mean squares in place of norms: the same share, and the numbers stay within half precision.
  cells = x.shape[1] * x.shape[2]
  size = jnp.sqrt(jnp.mean(jnp.square(x), axis=(1, 2), keepdims=True))
  share = size / (jnp.mean(size, axis=3, keepdims=True) + 1e-6 / math.sqrt(cells))
  return x * (1.0 + gamma * share) + beta


def _class_maps(weights: Kernel, x: jax.Array) -> jax.Array:
  """Convolution and mean are both linear, so the mean comes first."""
  return convolved(jnp.mean(x, axis=(1, 2), keepdims=True), weights)[:, 0, 0]


def _cp_resnet(cfg: CPResNetConfig, variables: Variables, log_mel: jax.Array) -> jax.Array:
  """As `mobile_jax.cp_resnet` (reference text of the scene models, section 3)."""
  params, stats = variables["params"], variables["batch_stats"]
  x = jax.nn.relu(
    convolved(log_mel[..., None], folded(params["stem"], stats["stem"]), (2, 2), padding=1)
  )
  x = _max_pool(x, (2, 2)) if 0 in cfg.pools else x
  for number, shape in enumerate(cfg.blocks, 1):
    mine, its = (tree[f"block_{number}"] for tree in (params, stats))
    conv = {name: functools.partial(_grouped, folded(mine[name], its[name]), shape.groups)
            for name in mine}  # fmt: skip
    y = conv["second"](jax.nn.relu(conv["first"](x)))
    y = jax.nn.relu(y + (conv["shortcut"](x) if "shortcut" in conv else x))
    x = _max_pool(y, (2, 1)) if shape.pooled else y
  return _class_maps(folded(params["head"], stats["head"]), x)


def _grouped(weights: Kernel, groups: int, x: jax.Array) -> jax.Array:
  """One convolution for each group: not every runtime has grouped ones."""
  kernels, biases = (np.split(part, groups, axis=-1) for part in weights)
  parts = zip(jnp.split(x, groups, axis=-1), kernels, biases, strict=True)
  outputs = [convolved(part, Kernel(kernel, bias)) for part, kernel, bias in parts]
  return jnp.concatenate(outputs, axis=-1) if groups > 1 else outputs[0]


def _max_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  window = (1, *size, 1)
  return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


FORMS: dict[type, Callable[..., jax.Array]] = {
  CPMobileConfig: _cp_mobile,
  CPResNetConfig: _cp_resnet,
}
