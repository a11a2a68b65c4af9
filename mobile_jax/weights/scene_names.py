"""Name tables of CP-Mobile and CP-ResNet (reference text of the scene models, sections 2, 3)."""

from __future__ import annotations

from dasheng_jax.weights.table import AS_IS, Rule
from mobile_jax.scene_config import CPMobileConfig, CPResNetConfig
from mobile_jax.weights.rules import CONV_1X1, CONV_DENSE, CONV_DEPTHWISE, conv_norm, norm


def cp_mobile_rules(cfg: CPMobileConfig) -> tuple[Rule, ...]:
  """Every variable of CP-Mobile."""
  table = [
    *conv_norm("in_c.0", "stem", CONV_DEPTHWISE),
    *conv_norm("in_c.1", "second", CONV_DENSE),
  ]
  stage_of = [s for s, count in enumerate(cfg.blocks_per_stage, 1) for _ in range(count)]
  for stage, block in zip(stage_of, cfg.blocks, strict=True):
    torch, ours = f"stages.s{stage}.b{block.number}", f"block_{block.number}"
    table += conv_norm(f"{torch}.block.0", f"{ours}/expand", CONV_1X1)
    table += conv_norm(f"{torch}.block.1", f"{ours}/depthwise", CONV_DEPTHWISE)
    table += conv_norm(f"{torch}.block.2", f"{ours}/project", CONV_1X1)
    for name in ("gamma", "beta"):
      source = f"{torch}.after_block_norm.{name}"
      table.append(Rule(source, f"params/{ours}/response/{name}", AS_IS))
  return (*table, *_class_maps())


def cp_resnet_rules(cfg: CPResNetConfig) -> tuple[Rule, ...]:
  """Every variable of CP-ResNet."""
  table = list(conv_norm("in_c", "stem", CONV_DENSE))
  for number, block in enumerate(cfg.blocks, 1):
    torch, ours = f"stage{block.stage}.block{block.number}", f"block_{number}"
    for i, name in enumerate(("first", "second"), 1):
      table.append(Rule(f"{torch}.conv{i}.weight", f"params/{ours}/{name}/kernel", CONV_DENSE))
      table += norm(f"{torch}.bn{i}", f"{ours}/{name}/norm")
    if block.channels != block.out:
      source, target = f"{torch}.shortcut", f"{ours}/shortcut"
      table.append(Rule(f"{source}.conv.weight", f"params/{target}/kernel", CONV_DENSE))
      table += norm(f"{source}.bn", f"{target}/norm")
  return (*table, *_class_maps())


def _class_maps() -> tuple[Rule, ...]:
  return (
    Rule("feed_forward.0.weight", "params/head/kernel", CONV_1X1),
    *norm("feed_forward.1", "head/norm"),
  )
