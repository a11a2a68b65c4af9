"""Name tables: PyTorch names on the left, ours on the right.

Those of MN and DyMN are here (reference text, section 6), of the others in files of their own.
"""

from __future__ import annotations

import numpy as np

from dasheng_jax.errors import ConfigError
from dasheng_jax.weights.table import AS_IS, LINEAR, Rule, Transform, shaped
from mobile_jax.config import PLACES, BlockShape, DyMNConfig, MNConfig
from mobile_jax.decision_config import EfficientNetConfig, MobileNetV2Config
from mobile_jax.dynamic import relu_constants
from mobile_jax.network import Config
from mobile_jax.passt_config import PaSSTConfig
from mobile_jax.scene_config import CPMobileConfig, CPResNetConfig
from mobile_jax.weights.decision_names import (
  efficientnet_rules,
  front_end_constants,
  mobilenet_v2_rules,
)
from mobile_jax.weights.passt_names import passt_rules
from mobile_jax.weights.rules import CONV_1X1, CONV_DEPTHWISE, conv_norm, norm
from mobile_jax.weights.scene_names import cp_mobile_rules, cp_resnet_rules

_TORCH_PLACE = {"expand": "exp", "depthwise": "depth", "project": "proj"}


def rules(cfg: Config) -> tuple[Rule, ...]:
  """Every variable of a configuration, in the order of the released state dicts.

  Raises ConfigError for variants that the released code does not have, and so no names for.
  """
  match cfg:
    case DyMNConfig():
      return _dymn_rules(cfg)
    case CPMobileConfig():
      return cp_mobile_rules(cfg)
    case CPResNetConfig():
      return cp_resnet_rules(cfg)
    case PaSSTConfig():
      return passt_rules(cfg)
    case MobileNetV2Config():
      return mobilenet_v2_rules(cfg)
    case EfficientNetConfig():
      return efficientnet_rules(cfg)
  return _mn_rules(cfg)


def buffers(cfg: Config) -> dict[str, np.ndarray]:
  """Constants that the released state dicts carry and we compute, by name."""
  if isinstance(cfg, MobileNetV2Config):
    return front_end_constants(cfg)
  if not isinstance(cfg, DyMNConfig) or not cfg.relus:
    return {}
  reach, start = relu_constants(cfg.pieces)
  named = {}
  for block in cfg.blocks:
    if cfg.is_dynamic(block):
      act = f"layers.{block.number - 1}.depth_act."
      named |= {f"{act}lambdas": reach, f"{act}init_v": start}
  return named


def _linear(torch: str, ours: str) -> tuple[Rule, ...]:
  return (
    Rule(f"{torch}.weight", f"params/{ours}/kernel", LINEAR),
    Rule(f"{torch}.bias", f"params/{ours}/bias", AS_IS),
  )


def _mlp() -> tuple[Rule, ...]:
  return (*_linear("classifier.2", "head/hidden"), *_linear("classifier.5", "head/logits"))


def _mn_rules(cfg: MNConfig) -> tuple[Rule, ...]:
  table = [*conv_norm("features.0", "stem", CONV_DEPTHWISE)]
  for block in cfg.blocks:
    axes = cfg.squeezed if block.se else ()
    table += _mn_block(block, f"features.{block.number}.block", axes)
  table += conv_norm(f"features.{len(cfg.blocks) + 1}", "last", CONV_1X1)
  match cfg.head:
    case "mlp":
      table += _mlp()
    case "fully_convolutional":
      table.append(Rule("classifier.0.weight", "params/head/kernel", CONV_1X1))
      table += norm("classifier.1", "head/norm")
    case _:
      heads = shaped("head weight", (cfg.attention_heads,), (1, cfg.attention_heads, 1))
      table.append(Rule("classifier.head_weight", "params/head/head_weight", heads))
      table += _linear("classifier.subspace_proj", "head/subspaces")
  return tuple(table)


def _mn_block(block: BlockShape, torch: str, axes: tuple[str, ...]) -> list[Rule]:
  # Places are numbered without gaps: a block that does not expand starts with its depthwise one.
  ours, table, place = f"block_{block.number}", [], 0
  if block.expands:
    table += conv_norm(f"{torch}.{place}", f"{ours}/expand", CONV_1X1)
    place += 1
  table += conv_norm(f"{torch}.{place}", f"{ours}/depthwise", CONV_DEPTHWISE)
  place += 1
  for i, axis in enumerate(axes):
    for name, layer in (("fc1", "down"), ("fc2", "up")):
      source = f"{torch}.{place}.conc_se_layers.{i}.{name}"
      table += _linear(source, f"{ours}/excite/se_{axis}/{layer}")
  place += bool(axes)
  table += conv_norm(f"{torch}.{place}", f"{ours}/project", CONV_1X1)
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
  table += conv_norm("in_c", "stem", CONV_DEPTHWISE)
  table += conv_norm("out_c", "last", CONV_1X1)
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
    table += norm(f"{source}_norm", f"{target}/norm")
    if place in cfg.relus:
      table += _linear(f"{source}_act.coef_net.0", f"{ours}/relu_{place}/coefficients")
  context, joint = f"{torch}.context_gen", f"{ours}/context"
  table.append(Rule(f"{context}.joint_conv.weight", f"params/{joint}/joint/kernel", CONV_1X1))
  table += norm(f"{context}.joint_norm", f"{joint}/joint/norm")
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
