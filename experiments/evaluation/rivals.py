"""What an encoder has to beat: features that need no training at all."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.embedding.embedder import Embedding, in_batches
from experiments.evaluation.embed import POOLINGS, bucket_samples, embed_set, valid_tokens
from pipelines.errors import BadAudio
from pipelines.mel import DASHENG_MEL, MelConfig, log_mel
from pipelines.tasks import LabelledSet

# Clamped per clip: the features of a clip must not depend on its neighbours in the batch.
FULL_RANGE = dataclasses.replace(DASHENG_MEL, clamp="sample")
# What lies far below the loudest cell is noise floor, resampling filter and rounding: it tells
# recordings apart, not sounds. Cutting it off makes the rival much stronger (about 12 points on
# spoken digits, 5 on ESC-10).
TOP_50_DB = dataclasses.replace(FULL_RANGE, top_db=50.0)
MOST_ROWS = 128


class LogMelEmbedder:
  """Mean and standard deviation over time of the log-mel in dB; its frames are the timestamps.

  Args:
    cfg: the log-mel; its clamp must look at each clip on its own.
    timestamps: whether frames are wanted, one for each hop.
    batch_seconds: of audio that are worked on side by side.
  """

  def __init__(
    self, cfg: MelConfig, *, timestamps: bool = False, batch_seconds: float | int = 160.0
  ):
    self.cfg, self.timestamps, self.batch_seconds = cfg, timestamps, batch_seconds
    self.sample_rate = cfg.sample_rate
    self.settings = {
      "family": "log_mel",
      "mel": dataclasses.asdict(cfg),
      "timestamps": timestamps,
      "sample_rate": cfg.sample_rate,
    }
    self._call = jax.jit(functools.partial(_frames_and_scene, cfg))

  def group(self, samples: int) -> Hashable:
    """The length that a clip is padded to."""
    if not samples:
      raise BadAudio("is empty")
    return bucket_samples(samples)

  def rows(self, group: Hashable) -> int:
    """Clips of about `batch_seconds` in all."""
    assert isinstance(group, int)
    return max(1, min(MOST_ROWS, int(self.batch_seconds * self.sample_rate / group)))

  def embed(self, waves: Sequence[np.ndarray]) -> list[Embedding]:
    """One embedding per wave f32[s] of one group."""
    size = self.group(len(waves[0]))
    assert isinstance(size, int)
    rows = [(np.pad(wave, (0, size - len(wave))), np.int32(len(wave))) for wave in waves]
    made = in_batches(self._call, rows, sorted({1, self.rows(size)}))
    if not self.timestamps:
      return [Embedding(scene) for _, scene in made]
    hop = self.cfg.hop_length
    counts = [max(len(wave) // hop, 1) for wave in waves]
    step = 1000 * hop / self.sample_rate
    return [
      Embedding(scene, frames[:count], (step * np.arange(count)).astype(np.float32))
      for (frames, scene), count in zip(made, counts, strict=True)
    ]

  def scenes(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The scene f32[d] of each wave f32[s] of one group."""
    return [made.scene for made in self.embed(waves)]

  def over_time(self, waves: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames f32[n, d] and their times in ms of each wave f32[s] of one group."""
    found = []
    for made in self.embed(waves):
      assert made.timestamps is not None, "an embedder that was asked for timestamps"
      assert made.times_ms is not None
      found.append((made.timestamps, made.times_ms))
    return found


def _frames_and_scene(
  cfg: MelConfig, wave: Float[Array, "b s"], lengths: Int[Array, " b"]
) -> tuple[Float[Array, "b t f"], Float[Array, "b e"]]:
  frames = jnp.swapaxes(log_mel(wave, cfg), 1, 2)
  valid = valid_tokens(lengths, frames.shape[1], cfg.hop_length)
  return frames, jnp.concatenate([pool(frames, valid) for pool in POOLINGS["mean_std"]], axis=-1)


def log_mel_statistics(
  labelled_set: LabelledSet, cfg: MelConfig = FULL_RANGE, progress: bool = True
) -> np.ndarray:
  """Mean and standard deviation over time of the log-mel in dB, f32[n, 2 * mel_bins]."""

  def frames(params: None, wave: jax.Array, lengths: jax.Array) -> jax.Array:
    del params, lengths
    return jnp.swapaxes(log_mel(wave, cfg), 1, 2)

  hop = cfg.hop_length
  return embed_set(frames, None, labelled_set, "mean_std", token_samples=hop, progress=progress)


RIVALS: dict[str, MelConfig] = {
  "log-mel mean and std": FULL_RANGE,
  "log-mel mean and std, top 50 dB": TOP_50_DB,
}
# What `open_encoder` calls them.
RIVAL_SPECS = dict(zip(("log_mel", "log_mel_50db"), RIVALS, strict=True))
