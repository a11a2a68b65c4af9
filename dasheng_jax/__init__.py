"""Dasheng: a masked autoencoder over 40 ms log-mel chunks, in Flax, as pure functions.

    embed, params = dasheng_jax.load_encoder("dasheng_base.pt")
    tokens = embed(params, wave)        # f32[b, s] at 16 kHz -> f32[b, t, d] at 25 Hz

Importing this package imports neither Flax nor any weight-file reader; each name is loaded when it
is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dasheng_jax.lazy import lazily

if TYPE_CHECKING:
  from dasheng_jax.config import (
    DEC_25M as DEC_25M,
  )
  from dasheng_jax.config import (
    DEC_56M as DEC_56M,
  )
  from dasheng_jax.config import (
    SIZES as SIZES,
  )
  from dasheng_jax.config import (
    ComputeConfig as ComputeConfig,
  )
  from dasheng_jax.config import (
    DashengConfig as DashengConfig,
  )
  from dasheng_jax.config import (
    DecoderConfig as DecoderConfig,
  )
  from dasheng_jax.config import (
    EncoderConfig as EncoderConfig,
  )
  from dasheng_jax.config import (
    named as named,
  )
  from dasheng_jax.errors import ConfigError as ConfigError
  from dasheng_jax.errors import WeightsError as WeightsError
  from dasheng_jax.inference import embed as embed
  from dasheng_jax.inference import valid_tokens as valid_tokens
  from dasheng_jax.mae import (
    MaskedAutoencoder as MaskedAutoencoder,
  )
  from dasheng_jax.mae import (
    init_variables as init_variables,
  )
  from dasheng_jax.mae import (
    pretrain_loss as pretrain_loss,
  )
  from dasheng_jax.models import MODELS as MODELS
  from dasheng_jax.models import published as published
  from dasheng_jax.weights.load import load_encoder as load_encoder
  from dasheng_jax.weights.load import read_encoder as read_encoder

_HOME = {
  "DEC_25M": "config",
  "DEC_56M": "config",
  "SIZES": "config",
  "ComputeConfig": "config",
  "DashengConfig": "config",
  "DecoderConfig": "config",
  "EncoderConfig": "config",
  "named": "config",
  "ConfigError": "errors",
  "WeightsError": "errors",
  "embed": "inference",
  "valid_tokens": "inference",
  "MaskedAutoencoder": "mae",
  "init_variables": "mae",
  "pretrain_loss": "mae",
  "MODELS": "models",
  "published": "models",
  "load_encoder": "weights.load",
  "read_encoder": "weights.load",
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
