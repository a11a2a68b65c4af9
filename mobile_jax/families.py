"""Which models there are: the families, their configurations, and sizes by name."""

from __future__ import annotations

from dasheng_jax.config import unknown_name
from dasheng_jax.errors import ConfigError
from mobile_jax.config import SIZES, DyMNConfig, MNConfig
from mobile_jax.decision_config import DECISION_SIZES, EfficientNetConfig, MobileNetV2Config
from mobile_jax.passt_config import PASST_SIZES, PaSSTConfig
from mobile_jax.scene_config import SCENE_SIZES, CPMobileConfig, CPResNetConfig

Tagger = MNConfig | DyMNConfig
Scene = CPMobileConfig | CPResNetConfig | PaSSTConfig  # PaSST tells tags as well
Decision = MobileNetV2Config | EfficientNetConfig  # taggers that decide at every time step
Config = Tagger | Scene | Decision
# Each family's own configuration, as records of weights name them.
FAMILIES: dict[str, Config] = {
  "mn": MNConfig(),
  "dymn": DyMNConfig(),
  "cp_mobile": CPMobileConfig(),
  "cp_resnet": CPResNetConfig(),
  "passt": PaSSTConfig(),
  "mobilenet_v2": MobileNetV2Config(),
  "efficientnet": EfficientNetConfig(),
}
ALL_SIZES: dict[str, Config] = {**SIZES, **SCENE_SIZES, **PASST_SIZES, **DECISION_SIZES}


def family_of(cfg: Config) -> str:
  """The key of `FAMILIES` that a configuration belongs to."""
  return next(name for name, plain in FAMILIES.items() if type(plain) is type(cfg))


def named(name: str) -> Config:
  """Configuration by name ("mn10", "cp_mobile_32"); a wrong name answers with the nearest ones."""
  if name not in ALL_SIZES:
    raise ConfigError(unknown_name("model", name, ALL_SIZES))
  return ALL_SIZES[name]


def size_of(cfg: Config) -> str:
  """Such as "MN of width 0.4", for people."""
  kind = type(cfg).__name__.removesuffix("Config")
  if isinstance(cfg, Tagger | Decision):
    return f"{kind} of width {cfg.width:g}"
  if isinstance(cfg, PaSSTConfig):
    return f"{kind} of width {cfg.width} and depth {cfg.depth}"
  return f"{kind} of {cfg.base_channels} channels"
