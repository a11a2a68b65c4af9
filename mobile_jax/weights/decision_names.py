"""Name tables of MobileNetV2 and EfficientNet (reference text of the weakly supervised taggers,
section 2). The classifier of "efficientnet_pytorch" is `head` here: no public file has one.
"""

from __future__ import annotations

import numpy as np

from dasheng_jax.weights.table import AS_IS, LINEAR, Rule, Transform
from mobile_jax.decision_config import EfficientNetConfig, MBConvShape, MobileNetV2Config
from mobile_jax.weights.rules import CONV_1X1, CONV_DEPTHWISE, conv_norm, norm
from pipelines.mel import hann_window, mel_filterbank

WINDOW, FILTERS = "front_end.0.spectrogram.window", "front_end.0.mel_scale.fb"


def mobilenet_v2_rules(cfg: MobileNetV2Config) -> tuple[Rule, ...]:
  """Every variable of MobileNetV2, torchvision's included."""
  table = list(conv_norm("features.0", "stem", CONV_DEPTHWISE))
  for block in cfg.blocks:
    torch, ours, place = f"features.{block.number}.conv", f"block_{block.number}", 0
    if block.expands:
      table += conv_norm(f"{torch}.0", f"{ours}/expand", CONV_1X1)
      place = 1
    table += conv_norm(f"{torch}.{place}", f"{ours}/depthwise", CONV_DEPTHWISE)
    # The projection has no activation behind it and so no group of its own.
    table += _apart(f"{torch}.{place + 1}", f"{torch}.{place + 2}", f"{ours}/project", CONV_1X1)
  table += conv_norm(f"features.{len(cfg.blocks) + 1}", "last", CONV_1X1)
  return (*table, *_layer("classifier.1", "head/logits", LINEAR))


def front_end_constants(cfg: MobileNetV2Config) -> dict[str, np.ndarray]:
  """Window and mel filters, which the released state dict carries and torchvision's does not."""
  if cfg.lineage == "torchvision":
    return {}
  return {WINDOW: hann_window(cfg.mel.n_fft), FILTERS: mel_filterbank(cfg.mel)}


def efficientnet_rules(cfg: EfficientNetConfig) -> tuple[Rule, ...]:
  """Every variable of EfficientNet, under the names of its lineage."""
  if cfg.lineage == "torchvision":
    return _torchvision(cfg)
  table = list(_apart("_conv_stem", "_bn0", "stem", CONV_DEPTHWISE))
  for block in cfg.blocks:
    torch, ours = f"_blocks.{block.number - 1}", f"block_{block.number}"
    if block.expands:
      table += _apart(f"{torch}._expand_conv", f"{torch}._bn0", f"{ours}/expand", CONV_1X1)
    source = f"{torch}._depthwise_conv"
    table += _apart(source, f"{torch}._bn1", f"{ours}/depthwise", CONV_DEPTHWISE)
    table += _layer(f"{torch}._se_reduce", f"{ours}/squeeze/down", CONV_1X1)
    table += _layer(f"{torch}._se_expand", f"{ours}/squeeze/up", CONV_1X1)
    table += _apart(f"{torch}._project_conv", f"{torch}._bn2", f"{ours}/project", CONV_1X1)
  table += _apart("_conv_head", "_bn1", "last", CONV_1X1)
  return (*table, *_layer("head", "head/logits", LINEAR))


def _torchvision(cfg: EfficientNetConfig) -> tuple[Rule, ...]:
  table = list(conv_norm("features.0", "stem", CONV_DEPTHWISE))
  for block in cfg.blocks:
    table += _torchvision_block(block)
  table += conv_norm(f"features.{cfg.blocks[-1].stage + 1}", "last", CONV_1X1)
  return (*table, *_layer("classifier.1", "head/logits", LINEAR))


def _torchvision_block(block: MBConvShape) -> list[Rule]:
  # Places are numbered without gaps: a block that does not expand starts with its depthwise one.
  torch, ours = f"features.{block.stage}.{block.place}.block", f"block_{block.number}"
  first = int(block.expands)
  table: list[Rule] = []
  if block.expands:
    table += conv_norm(f"{torch}.0", f"{ours}/expand", CONV_1X1)
  table += conv_norm(f"{torch}.{first}", f"{ours}/depthwise", CONV_DEPTHWISE)
  table += _layer(f"{torch}.{first + 1}.fc1", f"{ours}/squeeze/down", CONV_1X1)
  table += _layer(f"{torch}.{first + 1}.fc2", f"{ours}/squeeze/up", CONV_1X1)
  return [*table, *conv_norm(f"{torch}.{first + 2}", f"{ours}/project", CONV_1X1)]


def _apart(conv: str, batch_norm: str, ours: str, kind: Transform) -> tuple[Rule, ...]:
  """A convolution and its norm, each under a name of its own."""
  kernel = Rule(f"{conv}.weight", f"params/{ours}/kernel", kind)
  return (kernel, *norm(batch_norm, f"{ours}/norm"))


def _layer(torch: str, ours: str, kind: Transform) -> tuple[Rule, ...]:
  """A layer with a bias."""
  return (
    Rule(f"{torch}.weight", f"params/{ours}/kernel", kind),
    Rule(f"{torch}.bias", f"params/{ours}/bias", AS_IS),
  )
