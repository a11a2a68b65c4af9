"""The encoder class that X-ARES expects, for every family of models.

Interface: the package `xares` (Apache-2.0), its checker and the examples of its README. An encoder
is a `torch.nn.Module` whose class name ends in "Encoder", with `sampling_rate` in Hz, `output_dim`
and `hop_size_in_ms`; it maps tensors [b, samples] to [b, n, output_dim].
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from dasheng_jax.errors import ConfigError
from experiments.hear import tensors
from experiments.xares.load import open_frames

# The package calls the class without arguments.
VARIABLES = {"path": "XARES_WEIGHTS", "model": "XARES_MODEL", "features": "XARES_FEATURES"}
_DIGITS = 8  # of the weights' sha256


def encoder_class(family: str, name: str) -> type:
  """The class of a family's encoders, by its name. It needs PyTorch; the weights stay with JAX."""
  import torch

  class FamilyEncoder(torch.nn.Module):
    """An encoder of X-ARES.

    Args:
      path: weights, `.pt` or `.safetensors`; of Dasheng also the folder of a run.
      model: a name of `mobile_jax.MODELS` or `ALL_SIZES`; default: by the file's name or record.
      features: of MN and DyMN, some of mel, blocks, all_blocks and b0 to b15; default: blocks mel.

    What is not given is taken from the environment: XARES_WEIGHTS, XARES_MODEL, XARES_FEATURES.
    Raises ConfigError and WeightsError in one line.
    """

    def __init__(self, path: str = "", *, model: str = "", features: tuple[str, ...] = ()):
      super().__init__()
      weights = path or _variable("path")
      if not weights:
        raise ConfigError("no weights: pass a path, or set XARES_WEIGHTS to a weight file")
      self.source = open_frames(
        weights,
        family=family,
        model=model or _variable("model"),
        features=tuple(features) or tuple(_variable("features").split()),
      )
      self.sampling_rate: int = self.source.sampling_rate
      self.output_dim: int = self.source.output_dim
      self.hop_size_in_ms: float = self.source.hop_ms
      # The package keeps embeddings and scores in folders named like the class, and takes what it
      # finds there for its own: two weight files must not share one.
      self.__class__ = type(class_name(weights, self.source.settings), (type(self),), {})

    def forward(self, audio: Any) -> Any:
      """[b, n, output_dim] of audio [b, samples] or [samples], on the audio's device."""
      waves = tensors.to_numpy(audio[None] if audio.ndim == 1 else audio)
      rows = self.source.frames(list(waves))
      return tensors.like(audio, np.stack(rows))

  FamilyEncoder.__name__ = FamilyEncoder.__qualname__ = name
  return FamilyEncoder


def class_name(weights: str, settings: dict[str, Any]) -> str:
  """Such as "mn04_as_mAP_432_0f3c5a7e_blocks_Encoder": file, weights and what is taken of them."""
  stem = re.sub(r"\W", "_", Path(weights).name.removesuffix(".pt").removesuffix(".safetensors"))
  parts = "_".join(settings.get("features", ()))
  return "_".join(filter(None, (stem, settings["weights"][:_DIGITS], parts, "Encoder")))


def _variable(keyword: str) -> str:
  return os.environ.get(VARIABLES[keyword], "")
