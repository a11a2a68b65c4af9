"""Scenes and timestamps of the networks that have one kind of embedding: a vector each time step.

CP-Mobile, CP-ResNet, PaSST, MobileNetV2 and EfficientNet-B0. The steps are the timestamps, and
their mean is the scene, the last one weighed by how much of it the recording fills. For whole steps
that is what a CNN pools for its classifier; PaSST's classifier reads two tokens of their own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from experiments.embedding.embedder import Embedding, check_long_enough
from experiments.embedding.frames import MobileFrames
from mobile_jax.inference import least_samples
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
    check_long_enough(samples, least_samples(self.cfg), self.sample_rate, "are needed")
    return self.steps.group(samples)

  def rows(self, group: Hashable) -> int:
    """Recordings of about `batch_seconds` in all."""
    return self.steps.rows(group)

  def embed(self, waves: Sequence[np.ndarray]) -> list[Embedding]:
    """One embedding per wave f32[s] of one group; zeros follow a wave up to a whole step."""
    found = self.over_time(waves)
    scenes = [self._mean(steps, len(wave)) for (steps, _), wave in zip(found, waves, strict=True)]
    if not self.timestamps:
      return [Embedding(scene) for scene in scenes]
    return [Embedding(scene, *timed) for scene, timed in zip(scenes, found, strict=True)]

  def scenes(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """f32[d] of each wave of one group."""
    made = self.steps.frames(waves)
    return [self._mean(steps, len(wave)) for steps, wave in zip(made, waves, strict=True)]

  def over_time(self, waves: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(f32[n, d], centres f32[n] in ms) of each wave of one group."""
    return [(steps, self.steps.centres_ms(len(steps))) for steps in self.steps.frames(waves)]

  def _mean(self, steps: np.ndarray, samples: int) -> np.ndarray:
    filled = 1000 * samples / self.sample_rate / self.steps.hop_ms - np.arange(len(steps))
    # The first step always holds some of it; one of zeros alone counts for nothing.
    share = np.clip(filled, 0, 1).astype(np.float32)
    return share @ steps / share.sum()
