"""Scenes and timestamps of the networks that have one kind of embedding: a vector each time step.

CP-Mobile, CP-ResNet, PaSST, MobileNetV2 and EfficientNet-B0. The steps are the timestamps, and
their mean is the scene: what the network pools for its classifier, but for PaSST, whose classifier
reads two tokens of their own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from experiments.embedding.embedder import Embedding, check_long_enough
from experiments.embedding.frames import MobileFrames
from mobile_jax.network import Config, Variables


class StepEmbedder:
  """Scene and timestamp embeddings of a network of `mobile_jax`.

  Args:
    cfg, variables: as `mobile_jax.read_model` gives them.
    timestamps: whether they are wanted.
    batch_seconds: of audio that go through the network side by side.
  """

  def __init__(
    self,
    cfg: Config,
    variables: Variables,
    *,
    timestamps: bool = False,
    batch_seconds: float | int = 80.0,
  ):
    self.cfg, self.variables, self.timestamps = cfg, variables, timestamps
    self.steps = MobileFrames(cfg, variables, batch_seconds=batch_seconds)
    self.sample_rate = self.steps.sampling_rate
    self.settings = {**self.steps.settings, "pooling": "mean", "timestamps": timestamps}

  def group(self, samples: int) -> Hashable:
    """The number of time steps."""
    check_long_enough(samples, self.cfg.mel.min_samples, self.sample_rate, "are needed")
    return self.steps.group(samples)

  def rows(self, group: Hashable) -> int:
    """Recordings of about `batch_seconds` in all."""
    return self.steps.rows(group)

  def embed(self, waves: Sequence[np.ndarray]) -> list[Embedding]:
    """One embedding per wave f32[s] of one group; zeros follow a wave up to a whole step."""
    made = []
    for found in self.steps.frames(waves):
      scene = found.mean(axis=0)
      if not self.timestamps:
        made.append(Embedding(scene))
        continue
      centres = self.steps.hop_ms * (np.arange(len(found)) + 0.5)
      made.append(Embedding(scene, found, centres.astype(np.float32)))
    return made
