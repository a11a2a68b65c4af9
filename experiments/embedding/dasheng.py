"""Dasheng over recordings of many lengths, each result as if the recording were alone.

Recordings are padded to one of few lengths. Padding reaches nothing: the end of a wave is reflected
here as the front end would, the frames behind it are silenced before the dB clamp looks for its
maximum, and the patches behind it are not attended to.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dasheng_jax.config import DashengConfig
from dasheng_jax.inference import embed_log_mel
from experiments.embedding.embedder import Embedding, check_long_enough, in_batches
from experiments.evaluation.embed import POOLINGS, bucket_samples
from pipelines.mel import mel_power, power_to_db

MOST_ROWS = 64


class DashengEmbedder:
  """Scene and timestamp embeddings of Dasheng (reference text, section 9).

  The timestamps are the tokens, one per 40 ms, and the scene is their mean over time.

  Args:
    cfg, variables: as `dasheng_jax.read_encoder` gives them. The dB clamp looks at each recording
      on its own, whatever the configuration says: company must not change a result.
    pooling: a name of `experiments.evaluation.embed.POOLINGS`.
    timestamps: whether they are wanted.
    batch_seconds: of audio that go through the network side by side.
  """

  def __init__(
    self,
    cfg: DashengConfig,
    variables: dict,
    *,
    pooling: str = "mean",
    timestamps: bool = False,
    batch_seconds: float | int = 80.0,
  ):
    self.cfg, self.variables, self.batch_seconds = alone(cfg), variables, batch_seconds
    self.sample_rate = cfg.mel.sample_rate
    self.timestamps = timestamps
    self.settings = {"pooling": pooling, "timestamps": timestamps}
    self._call = jax.jit(
      functools.partial(tokens_and_scene, self.cfg, pooling=pooling), static_argnames="want_tokens"
    )

  def group(self, samples: int) -> Hashable:
    """The length that a recording is padded to."""
    check_long_enough(samples, self.cfg.min_samples, self.sample_rate, "are needed")
    return bucket_samples(samples + self.cfg.mel.n_fft // 2)

  def rows(self, group: Hashable) -> int:
    """Recordings of about `batch_seconds` in all."""
    assert isinstance(group, int)
    return max(1, min(MOST_ROWS, int(self.batch_seconds * self.sample_rate / group)))

  def embed(self, waves: Sequence[np.ndarray]) -> list[Embedding]:
    """One embedding per wave f32[s] of one group."""
    made = self._run(waves, self.timestamps)
    if not self.timestamps:
      return [Embedding(scene) for (scene,) in made]
    found = self._timed(waves, [tokens for _, tokens in made])
    return [Embedding(scene, *timed) for (scene, _), timed in zip(made, found, strict=True)]

  def scenes(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """f32[d] of each wave of one group."""
    return [scene for (scene,) in self._run(waves, False)]

  def over_time(self, waves: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(tokens f32[n, d], times f32[n] in ms) of each wave of one group."""
    return self._timed(waves, [tokens for _, tokens in self._run(waves, True)])

  def _run(self, waves: Sequence[np.ndarray], want_tokens: bool) -> list[tuple[np.ndarray, ...]]:
    size = self.group(len(waves[0]))
    assert isinstance(size, int)
    rows = []
    for wave in waves:
      reflected = np.pad(wave, (0, self.cfg.mel.n_fft // 2), mode="reflect")
      row = np.zeros(size, np.float32)
      row[: len(reflected)] = reflected
      rows.append((row, np.int32(self.cfg.mel.frames(len(wave)))))
    call = functools.partial(self._call, self.variables, want_tokens=want_tokens)
    return in_batches(call, rows, sorted({1, self.rows(size)}))

  def _timed(
    self, waves: Sequence[np.ndarray], tokens: Sequence[np.ndarray]
  ) -> list[tuple[np.ndarray, np.ndarray]]:
    counts = [self.cfg.mel.frames(len(wave)) // self.cfg.patch_frames for wave in waves]
    return [
      (found[:count], token_times_ms(self.cfg, count))
      for found, count in zip(tokens, counts, strict=True)
    ]


def alone(cfg: DashengConfig) -> DashengConfig:
  """The configuration whose dB clamp looks at each recording on its own."""
  return dataclasses.replace(cfg, mel=dataclasses.replace(cfg.mel, clamp="sample"))


def token_times_ms(cfg: DashengConfig, count: int) -> np.ndarray:
  """f32[count]: 20, 60, 100, ... ms, the middle of each token's 40 ms (reference text, section 9).

  The authors' own HEAR module is not published; their module for a sibling model counts like this.
  """
  step = 1000 * cfg.patch_samples / cfg.mel.sample_rate
  return (step * (np.arange(count) + 0.5)).astype(np.float32)


def tokens_and_scene(
  cfg: DashengConfig,
  variables: dict,
  wave: Float[Array, "b s"],
  frames: Int[Array, " b"],
  *,
  pooling: str,
  want_tokens: bool,
) -> tuple[jax.Array, ...]:
  """(scene, and tokens f32[b, t, d] if wanted) of waves of which `frames` mel frames count."""
  power = mel_power(wave, cfg.mel)
  counts = jnp.arange(power.shape[2])[None] < frames[:, None]
  mel = power_to_db(jnp.where(counts[:, None], power, 0.0), cfg.mel)
  whole = frames // cfg.patch_frames
  tokens = embed_log_mel(cfg, variables, mel, whole * cfg.patch_samples)
  valid = jnp.arange(tokens.shape[1])[None] < whole[:, None]
  scene = jnp.concatenate([pool(tokens, valid) for pool in POOLINGS[pooling]], axis=-1)
  return (scene, tokens) if want_tokens else (scene,)
