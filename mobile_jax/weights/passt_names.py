"""Name table of PaSST (reference text of the scene models, section 4)."""

from __future__ import annotations

from dasheng_jax.weights.names import stack_rules, time_table
from dasheng_jax.weights.table import AS_IS, LINEAR, Rule, Transform, shaped
from mobile_jax.passt_config import PaSSTConfig
from mobile_jax.weights.rules import CONV_DENSE


def passt_rules(cfg: PaSSTConfig) -> tuple[Rule, ...]:
  """Every variable, the head that the forward pass leaves out included."""
  width = cfg.width
  positions = shaped("token positions", (2, width), (1, 2, width))
  frequency = Transform(
    "frequency table",
    lambda w: w.reshape(width, -1).T,
    lambda k: k.T.reshape(1, width, -1, 1),
  )
  token = shaped("token", (width,), (1, 1, width))
  return (
    Rule("cls_token", "params/class_token", token),
    Rule("dist_token", "params/distillation_token", token),
    Rule("new_pos_embed", "params/token_positions", positions),
    Rule("freq_new_pos_embed", "params/frequency", frequency),
    Rule("time_new_pos_embed", "params/time", time_table(width)),
    Rule("patch_embed.proj.weight", "params/patch_kernel", CONV_DENSE),
    Rule("patch_embed.proj.bias", "params/patch_bias", AS_IS),
    *stack_rules("", "params", width, cfg.heads),
    Rule("head.0.weight", "params/head/norm/scale", AS_IS),
    Rule("head.0.bias", "params/head/norm/bias", AS_IS),
    Rule("head.1.weight", "params/head/logits/kernel", LINEAR),
    Rule("head.1.bias", "params/head/logits/bias", AS_IS),
    Rule("head_dist.weight", "params/head_dist/kernel", LINEAR),
    Rule("head_dist.bias", "params/head_dist/bias", AS_IS),
  )
