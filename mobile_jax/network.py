"""A configuration's network as pure functions of its variables."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mobile_jax.config import DyMNConfig, MNConfig
from mobile_jax.cp_mobile import CPMobile
from mobile_jax.cp_resnet import CPResNet
from mobile_jax.decision_config import EfficientNetConfig, MobileNetV2Config
from mobile_jax.draws import few_draws
from mobile_jax.dymn import DyMN
from mobile_jax.efficientnet import EfficientNet
from mobile_jax.families import Config
from mobile_jax.mn import MN, Outputs
from mobile_jax.mobilenet_v2 import MobileNetV2
from mobile_jax.norm import running_momentum
from mobile_jax.passt import PaSST
from mobile_jax.passt_config import PaSSTConfig
from mobile_jax.scene_config import CPMobileConfig, CPResNetConfig

Variables = dict
_MODULES: dict[type, type] = {
  MNConfig: MN,
  DyMNConfig: DyMN,
  CPMobileConfig: CPMobile,
  CPResNetConfig: CPResNet,
  PaSSTConfig: PaSST,
  MobileNetV2Config: MobileNetV2,
  EfficientNetConfig: EfficientNet,
}
Module = MN | DyMN | CPMobile | CPResNet | PaSST | MobileNetV2 | EfficientNet


def module_of(cfg: Config) -> Module:
  """The Linen module of a configuration."""
  return _MODULES[type(cfg)](cfg)


def init_variables(cfg: Config, key: jax.Array) -> Variables:
  """Fresh {"params", "batch_stats"} as the released code draws them (reference text, section 4).

  Works under `jax.eval_shape`: any size can be inspected without allocating it.
  """
  # Shapes of parameters depend on the input's size with squeeze-and-excitation over its axes alone.
  frames = cfg.frames if isinstance(cfg, MNConfig) and "t" in cfg.squeezed else 32
  log_mel = jnp.zeros((1, cfg.mel.mel_bins, frames), jnp.float32)
  with few_draws(key):
    made = module_of(cfg.with_compute(kernels="xla")).init(key, log_mel)
  return {"batch_stats": {}, **made}


def shapes(cfg: Config) -> Variables:
  """Shapes and types of the variables; nothing is allocated."""
  return jax.eval_shape(functools.partial(init_variables, cfg), jax.random.key(0))


def infer(
  cfg: Config,
  variables: Variables,
  log_mel: Float[Array, "b f frames"],
  *,
  temperature: jax.Array | float | None = None,
) -> Outputs:
  """Inference, with running statistics and without dropout, on what `inference.log_mel` gives.

  temperature: of DyMN's dynamic convolutions; None takes the configuration's.
  """
  extra = {"temperature": temperature} if isinstance(cfg, DyMNConfig) else {}
  return module_of(cfg).apply(variables, log_mel, **extra)


def train_outputs(
  cfg: Config,
  variables: Variables,
  log_mel: Float[Array, "b f frames"],
  key: jax.Array | None,
  *,
  temperature: jax.Array | float | None = None,
  momentum: float | None = None,
) -> tuple[Outputs, Variables]:
  """(outputs, new batch statistics) of a training step's forward pass.

  key: of dropout, drop-connect and patchout; None switches all off. temperature: of this step, see
  `dynamic.temperature_at`. momentum: of the running statistics, see `norm.running_momentum`.
  """
  train = True
  if key is None:
    # What a transformer leaves out is all that tells its training from its inference.
    train = not isinstance(cfg, PaSSTConfig)
    cfg, key = _without_dropout(cfg), jax.random.key(0)
  extra = {"temperature": temperature} if isinstance(cfg, DyMNConfig) else {}
  with running_momentum(momentum):
    outputs, updated = module_of(cfg).apply(
      variables, log_mel, train, rngs={"dropout": key}, mutable=["batch_stats"], **extra
    )
  return outputs, updated.get("batch_stats", {})


def _without_dropout(cfg: Config) -> Config:
  if isinstance(cfg, EfficientNetConfig):
    return dataclasses.replace(cfg, dropout=0.0, drop_connect=0.0)
  if isinstance(cfg, MNConfig | DyMNConfig | MobileNetV2Config):
    return dataclasses.replace(cfg, dropout=0.0)
  return cfg
