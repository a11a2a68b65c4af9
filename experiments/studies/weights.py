"""What a study has to know of the weights it begins with."""

from __future__ import annotations

from mobile_jax.config import DyMNConfig
from mobile_jax.network import Config
from mobile_jax.weights.load import read_model


def network_of(init: str) -> tuple[Config, str]:
  """The network of a weight file or model name, and how recipes for its family end."""
  model, _ = read_model(init)
  return model, "_dymn" if isinstance(model, DyMNConfig) else ""
