"""One forward pass of ours as named stages, each in the layout that the PyTorch original has.

    Dasheng   log_mel (b, f, t) -> init_bn (b, 1, f, t) -> patches (b, d, 1, l) -> tokens (b, l, d)
              -> block_1 ... block_N (b, l, d) -> output (b, l, d) [-> logits (b, classes)]
    MN, DyMN  log_mel (b, f, t) -> stem, block_1 ... block_15, last (b, c, f, t)
              -> features (b, c), logits (b, classes); MobileNetV2 and EfficientNet likewise

"tokens" are patches with positions, the input of the first block; "output" stands behind the final
norm; Dasheng has logits with the AudioSet head alone. All of it is float32 on the CPU, with the
kernels that a user gets by default.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Float
from scipy.signal import lfilter

from dasheng_jax.blocks import Block
from dasheng_jax.classifier import classify
from dasheng_jax.config import DashengConfig
from dasheng_jax.encoder import Encoder
from dasheng_jax.inference import check_wave, encoder_variables
from mobile_jax import families
from mobile_jax.config import MNConfig
from mobile_jax.inference import log_mel as mobile_log_mel
from mobile_jax.network import infer
from mobile_jax.passt_config import PaSSTConfig
from mobile_jax.scene_config import CPMobileConfig
from pipelines.mel import log_mel as dasheng_log_mel

Config = DashengConfig | families.Config
Stages = dict[str, np.ndarray]
# Network input of the CNNs, and so what a log-mel may be called wherever the front end is apart.
LOG_MEL = "log_mel"


def family(cfg: Config) -> str:
  """`dasheng`, or a key of `mobile_jax.families.FAMILIES`."""
  return "dasheng" if isinstance(cfg, DashengConfig) else families.family_of(cfg)


def stage_names(cfg: Config) -> tuple[str, ...]:
  """The stages of a model from the front end to the output, in order."""
  if isinstance(cfg, DashengConfig):
    blocks = tuple(f"block_{n}" for n in range(1, cfg.encoder.depth + 1))
    return (LOG_MEL, "init_bn", "patches", "tokens", *blocks, "output")
  if isinstance(cfg, PaSSTConfig):
    return (LOG_MEL, "patches", "tokens", "features", "logits")
  blocks = tuple(f"block_{n}" for n in range(1, len(cfg.blocks) + 1))
  before = ("stem", "second") if isinstance(cfg, CPMobileConfig) else ("stem",)
  behind = ("last",) if isinstance(cfg, families.Tagger | families.Decision) else ()
  return (LOG_MEL, *before, *blocks, *behind, "features", "logits")


def stages(cfg: Config, variables: Mapping, wave: Float[np.ndarray, "b s"]) -> Stages:
  """Every stage of waves f32[b, s] in [-1, 1] at `cfg.mel.sample_rate`, in `stage_names` order.

  variables: as `read_encoder` or `read_model` give them, on any device or as numpy arrays; a stack
  of blocks goes through the CPU's memory a layer at a time. Raises ConfigError for a wave that the
  front end cannot take.
  """
  with _on_cpu():
    log_mel = np.asarray(_log_mel(cfg, jnp.asarray(wave)))
  found = {LOG_MEL: log_mel, **network_stages(cfg, variables, log_mel)}
  if isinstance(cfg, DashengConfig) and has_classifier(variables):
    host = jax.tree.map(np.asarray, dict(variables))
    with _on_cpu():
      found["logits"] = np.asarray(_classify(_exact(cfg), host, jnp.asarray(wave)))
  return found


def has_classifier(variables: Mapping) -> bool:
  """Whether these are variables of Dasheng's encoder with the AudioSet head beside it."""
  return "classifier" in variables["params"]


def network_stages(
  cfg: Config, variables: Mapping, log_mel: Float[np.ndarray, "b f frames"]
) -> Stages:
  """The stages behind the front end, from its output.

  That is dB for Dasheng and the taggers that decide at every step, normalised for the others.
  """
  host = jax.tree.map(np.asarray, dict(variables))
  with _on_cpu():
    if isinstance(cfg, DashengConfig):
      return _dasheng(_exact(cfg), encoder_variables(host), jnp.asarray(log_mel))
    return _mobile(cfg.with_compute(dtype="float32"), host, jnp.asarray(log_mel))


def _on_cpu() -> Any:
  return jax.default_device(jax.local_devices(backend="cpu")[0])


@functools.partial(jax.jit, static_argnums=0)
def _log_mel(cfg: Config, wave: jax.Array) -> jax.Array:
  if not isinstance(cfg, DashengConfig):
    return mobile_log_mel(cfg, wave)
  check_wave(cfg, wave, None)
  return dasheng_log_mel(wave, cfg.mel)


# --- Dasheng ---


def _exact(cfg: DashengConfig) -> DashengConfig:
  return cfg.with_compute(dtype="float32", attention="xla", remat="none", scan=True)


def _dasheng(cfg: DashengConfig, variables: Mapping, log_mel: jax.Array) -> Stages:
  blocks = variables["params"]["blocks"]
  rest = {name: x for name, x in variables["params"].items() if name != "blocks"}
  variables = {"params": rest, "batch_stats": variables["batch_stats"]}
  normalised, patches = _patches(cfg, variables, log_mel)
  found = {
    "init_bn": rearrange(np.asarray(normalised), "b f t -> b 1 f t"),
    "patches": rearrange(np.asarray(patches), "b l d -> b d 1 l"),
  }
  # Long inputs go through the blocks in chunks of the time table's length, as in `inference.embed`.
  size = cfg.encoder.positions
  chunks = [patches[:, start : start + size] for start in range(0, patches.shape[1], size)]
  chunks = [_positioned(cfg, variables, chunk) for chunk in chunks]
  found["tokens"] = np.concatenate(chunks, axis=1)
  for i in range(cfg.encoder.depth):
    # A whole stack on the device would be the model a second time.
    layer = _layer(blocks, i)
    chunks = [_block(cfg, layer, chunk) for chunk in chunks]
    found[f"block_{i + 1}"] = np.concatenate(chunks, axis=1)
  found["output"] = np.concatenate([_norm(cfg, variables, chunk) for chunk in chunks], axis=1)
  return found


def _layer(blocks: Mapping, i: int) -> dict:
  """Parameters of one block of a stack, scanned or not."""
  if "layers" not in blocks:
    return blocks[f"layer_{i}"]
  return jax.tree.map(lambda x: x[i], blocks["layers"])


@functools.partial(jax.jit, static_argnums=0)
def _patches(
  cfg: DashengConfig, variables: Mapping, log_mel: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """(log-mel behind the input normalisation, patches)."""
  patches, seen = Encoder(cfg).apply(
    variables, log_mel, method="patches", capture_intermediates=True, mutable=["intermediates"]
  )
  return seen["intermediates"]["init_bn"]["__call__"][0], patches


@functools.partial(jax.jit, static_argnums=0)
def _positioned(cfg: DashengConfig, variables: Mapping, chunk: jax.Array) -> jax.Array:
  return Encoder(cfg).apply(variables, chunk, method="positioned")


@functools.partial(jax.jit, static_argnums=0)
def _block(cfg: DashengConfig, layer: Mapping, chunk: jax.Array) -> jax.Array:
  shape = cfg.encoder
  block = Block(shape.heads, shape.mlp_ratio, cfg.compute, nn.initializers.zeros)
  return block.apply({"params": layer}, chunk)


@functools.partial(jax.jit, static_argnums=0)
def _norm(cfg: DashengConfig, variables: Mapping, chunk: jax.Array) -> jax.Array:
  return Encoder(cfg).apply(variables, chunk, method=lambda encoder, x: encoder.norm(x))


@functools.partial(jax.jit, static_argnums=0)
def _classify(cfg: DashengConfig, variables: Mapping, wave: jax.Array) -> jax.Array:
  return classify(cfg, dict(variables), wave)


# --- the models of mobile_jax ---


def _mobile(cfg: families.Config, variables: Mapping, log_mel: jax.Array) -> Stages:
  maps, features, logits = _infer(cfg, variables, log_mel)
  names = stage_names(cfg)[1:-2]
  found = {
    name: rearrange(np.asarray(x), "b f t c -> b c f t") if x.ndim == 4 else np.asarray(x)
    for name, x in zip(names, maps, strict=True)
  }
  return {**found, "features": np.asarray(features), "logits": np.asarray(logits)}


@functools.partial(jax.jit, static_argnums=0)
def _infer(
  cfg: families.Config, variables: Mapping, log_mel: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array, jax.Array]:
  out = infer(cfg, dict(variables), log_mel)
  return out.stages, out.features, out.logits


# --- what goes in where nothing is stored ---


def default_wave(cfg: Config) -> Float[np.ndarray, "b s"]:
  """`probe_wave` at the model's rate: 2 s, or as long as squeeze-and-excitation over time asks."""
  seconds, rate = 2.0, cfg.mel.sample_rate
  if isinstance(cfg, MNConfig) and "t" in cfg.squeezed:
    seconds = cfg.frames * cfg.mel.hop_length / rate
  return probe_wave(seconds, rate)


def probe_wave(seconds: float = 2.0, rate: int = 16_000) -> Float[np.ndarray, "b s"]:
  """Two made-up recordings f32[2, s] in [-1, 1], the same ones each time.

  A rising and a falling tone among bursts of noise, low frequencies louder, as in nature. Between
  them the noise never falls silent: no cell of a log-mel lies so far below its neighbours that the
  rounding of the spectrum alone would show (docs/parity.md).
  """
  draw = np.random.default_rng(20_240_611)
  samples, burst = round(seconds * rate), rate // 8
  time = np.arange(samples) / rate
  rows = []
  for low, high in ((100.0, 0.4 * rate), (0.3 * rate, 60.0)):
    phase = 2 * np.pi * (low * time + (high - low) * time**2 / (2 * seconds))
    loudness = np.repeat(draw.random(-(-samples // burst)) ** 2, burst)[:samples]
    # One pole at 0.9, scaled to keep the power.
    noise = lfilter([0.19**0.5], [1, -0.9], draw.random(samples) * 2 - 1)
    rows.append(0.1 * np.sin(phase) + (0.3 * loudness + 0.02) * noise)
  return np.stack(rows).astype(np.float32)
