"""Name tables of MN and DyMN: PyTorch names on the left, ours on the right (section 6)."""

from __future__ import annotations

import numpy as np

from dasheng_jax.errors import ConfigError
from dasheng_jax.weights.table import AS_IS, COUNT, LINEAR, Rule, Transform, shaped
from mobile_jax.config import PLACES, BlockShape, DyMNConfig, MNConfig
from mobile_jax.dynamic import relu_constants

# (out, in, 1, 1) <-> [in, out]
CONV_1X1 = Transform("1x1 convolution", lambda w: w[:, :, 0, 0].T, lambda k: k.T[:, :, None, None])
# (c, 1, k, k) <-> [k, k, c]
CONV_DEPTHWISE = Transform(
  "depthwise convolution",
  lambda w: w[:, 0].transpose(1, 2, 0),
  lambda k: k.transpose(2, 0, 1)[:, None],
)
_TORCH_PLACE = {"expand": "exp", "depthwise": "depth", "project": "proj"}


def rules(cfg: MNConfig | DyMNConfig) -> tuple[Rule, ...]:
  """Every variable of a configuration, in the order of the released state dicts.

  Raises ConfigError for variants that the released code does not have, and so no names for.
  """
  return _dymn_rules(cfg) if isinstance(cfg, DyMNConfig) else _mn_rules(cfg)


def buffers(cfg: MNConfig | DyMNConfig) -> dict[str, np.ndarray]:
  """Constants that the released state dicts carry and we compute, by name."""
  if not isinstance(cfg, DyMNConfig) or not cfg.relus:
    return {}
  reach, start = relu_constants(cfg.pieces)
  named = {}
  for block in cfg.blocks:
    if cfg.is_dynamic(block):
      act = f"layers.{block.number - 1}.depth_act."
      named |= {f"{act}lambdas": reach, f"{act}init_v": start}
  return named


def _norm(torch: str, ours: str) -> tuple[Rule, ...]:
  return (
    Rule(f"{torch}.weight", f"params/{ours}/scale", AS_IS),
    Rule(f"{torch}.bias", f"params/{ours}/bias", AS_IS),
    Rule(f"{torch}.running_mean", f"batch_stats/{ours}/mean", AS_IS),
    Rule(f"{torch}.running_var", f"batch_stats/{ours}/var", AS_IS),
    Rule(f"{torch}.num_batches_tracked", f"batch_stats/{ours}/count", COUNT),
  )


def _conv_norm(torch: str, ours: str, kind: Transform) -> tuple[Rule, ...]:
  return (
    Rule(f"{torch}.0.weight", f"params/{ours}/kernel", kind),
    *_norm(f"{torch}.1", f"{ours}/norm"),
  )


def _linear(torch: str, ours: str) -> tuple[Rule, ...]:
  return (
    Rule(f"{torch}.weight", f"params/{ours}/kernel", LINEAR),
    Rule(f"{torch}.bias", f"params/{ours}/bias", AS_IS),
  )


def _mlp() -> tuple[Rule, ...]:
  return (*_linear("classifier.2", "head/hidden"), *_linear("classifier.5", "head/logits"))


def _mn_rules(cfg: MNConfig) -> tuple[Rule, ...]:
  table = [*_conv_norm("features.0", "stem", CONV_DEPTHWISE)]
  for block in cfg.blocks:
    axes = cfg.squeezed if block.se else ()
    table += _mn_block(block, f"features.{block.number}.block", axes)
  table += _conv_norm(f"features.{len(cfg.blocks) + 1}", "last", CONV_1X1)
  match cfg.head:
    case "mlp":
      table += _mlp()
    case "fully_convolutional":
      table.append(Rule("classifier.0.weight", "params/head/kernel", CONV_1X1))
      table += _norm("classifier.1", "head/norm")
    case _:
      heads = shaped("head weight", (cfg.attention_heads,), (1, cfg.attention_heads, 1))
      table.append(Rule("classifier.head_weight", "params/head/head_weight", heads))
      table += _linear("classifier.subspace_proj", "head/subspaces")
  return tuple(table)


def _mn_block(block: BlockShape, torch: str, axes: tuple[str, ...]) -> list[Rule]:
  # Places are numbered without gaps: a block that does not expand starts with its depthwise one.
  ours, table, place = f"block_{block.number}", [], 0
  if block.expands:
    table += _conv_norm(f"{torch}.{place}", f"{ours}/expand", CONV_1X1)
    place += 1
  table += _conv_norm(f"{torch}.{place}", f"{ours}/depthwise", CONV_DEPTHWISE)
  place += 1
  for i, axis in enumerate(axes):
    for name, layer in (("fc1", "down"), ("fc2", "up")):
      source = f"{torch}.{place}.conc_se_layers.{i}.{name}"
      table += _linear(source, f"{ours}/excite/se_{axis}/{layer}")
  place += bool(axes)
  table += _conv_norm(f"{torch}.{place}", f"{ours}/project", CONV_1X1)
  return table


def _dymn_rules(cfg: DyMNConfig) -> tuple[Rule, ...]:
  released = (
    cfg.dynamic in ("all", "replace_se")
    and set(cfg.convs) in (set(), set(PLACES))
    and cfg.relus in ((), ("depthwise",))
    and cfg.attention in ("coordinate", "none")
    and (cfg.attention_axes, cfg.context, cfg.sequences) == ("both", "shared", "shared")
  )
  if not released:
    raise ConfigError(
      "this DyMN is one of the paper's ablations that the released code lacks, so PyTorch has no "
      "names for its weights; store it as one of our own checkpoints"
    )
  table: list[Rule] = []
  for block in cfg.blocks:
    torch = f"layers.{block.number - 1}"
    if cfg.is_dynamic(block):
      table += _dynamic_block(cfg, block, torch)
    else:
      table += _mn_block(block, f"{torch}.block", ())
  table += _conv_norm("in_c", "stem", CONV_DEPTHWISE)
  table += _conv_norm("out_c", "last", CONV_1X1)
  return (*table, *_mlp())


def _dynamic_block(cfg: DyMNConfig, block: BlockShape, torch: str) -> list[Rule]:
  ours = f"block_{block.number}"
  table: list[Rule] = []
  for place in PLACES:
    if place == "expand" and not block.expands:
      continue
    source, target = f"{torch}.{_TORCH_PLACE[place]}", f"{ours}/{place}"
    if place in cfg.convs:
      table.append(
        Rule(f"{source}_conv.weight", f"params/{target}/kernel", _kernels(cfg, block, place))
      )
      table += _linear(f"{source}_conv.residuals.0", f"{target}/router")
    else:
      kind = CONV_DEPTHWISE if place == "depthwise" else CONV_1X1
      table.append(Rule(f"{source}_conv.module.weight", f"params/{target}/kernel", kind))
    table += _norm(f"{source}_norm", f"{target}/norm")
    if place in cfg.relus:
      table += _linear(f"{source}_act.coef_net.0", f"{ours}/relu_{place}/coefficients")
  context, joint = f"{torch}.context_gen", f"{ours}/context"
  table.append(Rule(f"{context}.joint_conv.weight", f"params/{joint}/joint/kernel", CONV_1X1))
  table += _norm(f"{context}.joint_norm", f"{joint}/joint/norm")
  for name, axis in (("conv_f", "frequency"), ("conv_t", "time")):
    table.append(Rule(f"{context}.{name}.weight", f"params/{joint}/{axis}/kernel", CONV_1X1))
    table.append(Rule(f"{context}.{name}.bias", f"params/{joint}/{axis}/bias", AS_IS))
  return table


def _kernels(cfg: DyMNConfig, block: BlockShape, place: str) -> Transform:
  """(1, 1, K, numbers), each row ordered (out, in, kh, kw), <-> [K, in, out] or [K, k, k, c]."""
  count, size = cfg.kernels, block.kernel
  if place == "depthwise":
    channels = block.expanded
    return Transform(
      "dynamic depthwise kernels",
      lambda w: w.reshape(count, channels, size, size).transpose(0, 2, 3, 1),
      lambda k: k.transpose(0, 3, 1, 2).reshape(1, 1, count, -1),
    )
  inputs = block.channels if place == "expand" else block.expanded
  outputs = block.expanded if place == "expand" else block.out
  return Transform(
    "dynamic 1x1 kernels",
    lambda w: w.reshape(count, outputs, inputs).transpose(0, 2, 1),
    lambda k: k.transpose(0, 2, 1).reshape(1, 1, count, -1),
  )
