"""Weights in, embeddings over time out, for every family."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dasheng_jax.errors import ConfigError
from experiments.embedding.dasheng import DashengEmbedder
from experiments.embedding.load import fingerprint, is_dasheng

DASHENG = "dasheng"


class Frames(Protocol):
  """A model that gives an embedding every `hop_ms` milliseconds.

  Attributes: as of `experiments.embedding.frames.MobileFrames`.
  """

  sampling_rate: int
  hop_ms: float
  output_dim: int
  settings: dict[str, Any]

  def group(self, samples: int) -> Hashable:
    """Waves of one group can share a batch."""

  def rows(self, group: Hashable) -> int:
    """Waves that fill a batch of this group."""

  def frames(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """f32[n, d] of each wave f32[s] of one group, whatever company it is in."""


class DashengFrames:
  """Dasheng's tokens, one every 40 ms; zeros follow a wave too short for one."""

  def __init__(self, cfg: Any, variables: dict, *, batch_seconds: float | int = 80.0):
    self.embedder = DashengEmbedder(cfg, variables, timestamps=True, batch_seconds=batch_seconds)
    self.least = cfg.min_samples
    self.sampling_rate, self.output_dim = int(cfg.mel.sample_rate), int(cfg.encoder.width)
    self.hop_ms = 1000 * cfg.patch_samples / cfg.mel.sample_rate
    self.settings: dict[str, Any] = {"hop_ms": self.hop_ms}

  def group(self, samples: int) -> Hashable:
    """The length that a wave is padded to."""
    return self.embedder.group(max(samples, self.least))

  def rows(self, group: Hashable) -> int:
    """Waves of about `batch_seconds` in all."""
    return self.embedder.rows(group)

  def frames(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """f32[n, d] of each wave f32[s] of one group."""
    long = [np.pad(wave, (0, max(0, self.least - len(wave)))) for wave in waves]
    return [tokens for tokens, _ in self.embedder.over_time(long)]


def open_frames(
  weights: str,
  *,
  family: str = "",
  model: str = "",
  features: Sequence[str] = (),
  batch_seconds: float | int = 80.0,
) -> Frames:
  """The embeddings over time of a weight file, or of the folder of a Dasheng run.

  family: "dasheng" or a key of `mobile_jax.families.FAMILIES`, which the weights have to be of; ""
  takes any. model: a name that implies the configuration, "" goes by the file. features: of MN and
  DyMN; others have one kind. Raises ConfigError and WeightsError in one line.
  """
  path = Path(weights).expanduser()
  if family == DASHENG or (not family and is_dasheng(path, model)):
    import dasheng_jax

    encoder, variables = dasheng_jax.read_encoder(path)
    tokens = DashengFrames(encoder, variables, batch_seconds=batch_seconds)
    return _known(tokens, encoder, variables)
  import mobile_jax
  from experiments.embedding.frames import MobileFrames
  from mobile_jax.families import family_of

  cfg, variables = mobile_jax.read_model(path, name=model or None)
  found = family_of(cfg)
  if family and found != family:
    raise ConfigError(f"{weights}: is a {found} model; take experiments.xares.{found}")
  made = MobileFrames(cfg, variables, features=features, batch_seconds=batch_seconds)
  return _known(made, cfg, variables)


def _known(made: Any, cfg: Any, variables: dict) -> Frames:
  made.settings = {"weights": fingerprint(cfg, variables), **made.settings}
  return made
