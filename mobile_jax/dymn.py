"""DyMN: MN with dynamic blocks, and every ablation of its paper (reference text, section 5)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax import fused
from mobile_jax.attention import ATTENTIONS
from mobile_jax.config import PLACES, BlockShape, DyMNConfig
from mobile_jax.dynamic import Context, ContextOutputs, DynamicConvNorm, DynamicRelu
from mobile_jax.heads import MlpHead
from mobile_jax.layers import ConvNorm
from mobile_jax.mn import InvertedResidual, Outputs

Temperature = jax.Array | float


class DynamicBlock(nn.Module):
  """An inverted residual whose kernels, activation and gates follow a context of its input."""

  shape: BlockShape
  cfg: DyMNConfig

  def setup(self):
    """expand, depthwise, project; relu_PLACE; context (or context_USE); attention."""
    shape, cfg = self.shape, self.cfg
    uses = ("relu", "conv", "attention") if cfg.context == "per_use" else ("",)
    needed = {"relu": bool(cfg.relus), "conv": bool(cfg.convs)}
    released = cfg.attention in ("coordinate", "none")
    if cfg.uses_context:
      self.contexts = {
        use: Context(
          shape.channels,
          cfg.context_size(shape),
          shape.expanded,
          shape.true_stride,
          # Kept where attention is off, as in the released code; counts do not drop there.
          cfg.attention_axes if released and use in ("", "attention") else None,
          cfg.sequences,
          cfg.compute.kernels,
          name=f"context_{use}" if use else "context",
        )
        for use in uses
        if needed.get(use, use == "" or cfg.attention == "coordinate")
      }
    channels = {"expand": shape.channels, "depthwise": shape.expanded, "project": shape.expanded}
    outputs = {"expand": shape.expanded, "depthwise": shape.expanded, "project": shape.out}
    context = cfg.context_size(shape) * (2 if cfg.sequences == "concatenated" else 1)
    convs: dict[str, Any] = {}
    relus: dict[str, DynamicRelu] = {}
    for place in PLACES:
      if place == "expand" and not shape.expands:
        continue
      kind = "depthwise" if place == "depthwise" else "pointwise"
      inner: tuple = (1, 1, 1)
      if kind == "depthwise":
        inner = (shape.kernel, shape.true_stride, shape.dilation)
      inner = (*inner, cfg.compute.kernels)
      if place in cfg.convs:
        convs[place] = DynamicConvNorm(
          kind, channels[place], outputs[place], context, cfg.kernels, *inner, name=place
        )
      else:
        convs[place] = ConvNorm(kind, channels[place], outputs[place], *inner, name=place)
      if place in cfg.relus:
        relus[place] = DynamicRelu(outputs[place], context, cfg.pieces, name=f"relu_{place}")
    self.conv, self.relu = convs, relus
    if cfg.attention in ATTENTIONS:
      self.attention = ATTENTIONS[cfg.attention](shape.expanded)

  def __call__(
    self, x: Float[Array, "b f t c"], temperature: Temperature, train: bool = False
  ) -> Float[Array, "b f2 t2 d"]:
    """The block's map."""
    contexts = self._contexts(x, train)
    relus = {place: relu(contexts["relu"].context) for place, relu in self.relu.items()}
    frequency = time = None
    if self.cfg.attention == "coordinate":
      raw = contexts["attention"]
      frequency = None if raw.frequency is None else nn.sigmoid(raw.frequency)
      time = None if raw.time is None else nn.sigmoid(raw.time)
    gates = fused.Gates(relus.get("depthwise"), frequency, time)
    inside = self._train if train else self._infer
    return inside(x, contexts, relus, gates, temperature)

  def _contexts(self, x: jax.Array, train: bool) -> dict[str, ContextOutputs]:
    """The context by its use; all the same one where it is shared."""
    if not self.cfg.uses_context:
      return {}
    made = {use: context(x, train) for use, context in self.contexts.items()}
    return dict.fromkeys(("relu", "conv", "attention"), made[""]) if "" in made else made

  def _train(self, x, contexts, relus, gates, temperature) -> jax.Array:
    def convolve(y: jax.Array, place: str) -> jax.Array:
      conv = self.conv[place]
      act = "none" if place in relus or place == "project" else self.shape.activation
      if place in self.cfg.convs:
        y = conv(y, contexts["conv"].context, temperature, True, act)
      else:
        y = conv(y, True, act)
      return fused.dynamic_relu(y, relus[place]) if place in relus else y

    y = x
    if self.shape.expands:
      y = convolve(y, "expand").astype(x.dtype)
    y = convolve(y, "depthwise")
    if gates.frequency is not None:
      y = y * gates.frequency[:, :, None]
    if gates.time is not None:
      y = y * gates.time[:, None]
    y = self._attend(y, True).astype(x.dtype)
    y = convolve(y, "project").astype(x.dtype)
    return x + y if self.shape.residual else y

  def _infer(self, x, contexts, relus, gates, temperature) -> jax.Array:
    shape, kernels = self.shape, self.cfg.compute.kernels

    def folded(place: str) -> fused.Folded:
      conv = self.conv[place]
      if place in self.cfg.convs:
        return conv.folded(contexts["conv"].context, temperature)
      return conv.folded()

    residual = x if shape.residual else None
    expand = folded("expand") if shape.expands else None
    if expand is not None and "expand" in relus:
      # The fused half has a static activation there, so the expansion stands alone.
      x = fused.project(x, expand, kernels=kernels)
      x, expand = fused.dynamic_relu(x, relus["expand"]).astype(x.dtype), None
    y, _ = fused.expand_depthwise(
      x,
      expand,
      folded("depthwise"),
      activation=shape.activation,
      stride=shape.true_stride,
      dilation=shape.dilation,
      gates=gates,
      kernels=kernels,
    )
    y = self._attend(y, False).astype(x.dtype)
    if "project" not in relus:
      return fused.project(y, folded("project"), residual=residual, kernels=kernels)
    y = fused.project(y, folded("project"), kernels=kernels)
    y = fused.dynamic_relu(y, relus["project"]).astype(x.dtype)
    return y if residual is None else residual + y

  def _attend(self, y: jax.Array, train: bool) -> jax.Array:
    return self.attention(y, train) if self.cfg.attention in ATTENTIONS else y


class DyMN(nn.Module):
  """Log-mel in, `Outputs` out. Variables: "params" and "batch_stats"."""

  cfg: DyMNConfig

  def setup(self):
    """stem, block_1 to block_15, last, head: the names that weight tables know."""
    cfg = self.cfg
    self.stem = ConvNorm("stem", 1, cfg.stem, 3, 2, kernels=cfg.compute.kernels)
    self.block = [
      DynamicBlock(shape, cfg, name=f"block_{shape.number}")
      if cfg.is_dynamic(shape)
      else InvertedResidual(shape, kernels=cfg.compute.kernels, name=f"block_{shape.number}")
      for shape in cfg.blocks
    ]
    self.last = ConvNorm("pointwise", cfg.blocks[-1].out, cfg.features, kernels=cfg.compute.kernels)
    self.head = MlpHead(cfg.features, cfg.hidden, cfg.classes, cfg.dropout)

  def __call__(
    self,
    log_mel: Float[Array, "b f frames"],
    train: bool = False,
    temperature: Temperature | None = None,
  ) -> Outputs:
    """Of normalised log-mels. temperature: of the Dy-Conv softmax; None takes the config's."""
    temperature = self.cfg.temperature if temperature is None else temperature
    kernels = self.cfg.compute.kernels
    x = log_mel.astype(self.cfg.compute.dtype)
    if train:
      x = self.stem(x, train, "hardswish")
    else:
      x = fused.first(x, self.stem.folded(), activation="hardswish", kernels=kernels)
    stages = [x]
    for block in self.block:
      if isinstance(block, DynamicBlock):
        x = block(x, temperature, train)
      else:
        x, _ = block(x, train)
      stages.append(x)
    if train:
      x = self.last(x, train, "hardswish")
      mean = fused.pool(x)
    else:
      x, mean = fused.last(x, self.last.folded(), activation="hardswish", kernels=kernels)
    logits, hidden = self.head(x, mean, train)
    return Outputs(logits.astype(jnp.float32), mean, hidden, (*stages, x), {})
