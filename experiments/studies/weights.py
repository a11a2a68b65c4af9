"""What a study has to know of the weights it begins with."""

from __future__ import annotations

from pathlib import Path

from dasheng_jax.errors import WeightsError
from mobile_jax.config import DyMNConfig
from mobile_jax.network import Config
from mobile_jax.weights.load import config_of, read_model


def network_of(init: str) -> tuple[Config, str]:
  """The network of a weight file or model name, and how recipes for its family end."""
  try:
    model = config_of(Path(init), None)  # a published name needs no file
  except WeightsError:
    model, _ = read_model(init)
  return model, "_dymn" if isinstance(model, DyMNConfig) else ""
