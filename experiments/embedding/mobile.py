"""MN and DyMN over recordings of many lengths, each result as if the recording were alone.

Padding would change what these networks compute (they have no masks). What decides the shape of
their work is the number of mel frames, though, so recordings of equally many frames share a batch
and a compiled program: of those there are at most a thousand up to 10 s. Windows, of longer scenes
and of timestamps, are cut here and go through the network in batches across recordings.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import lfilter

from experiments.embedding.embedder import Embedding, check_long_enough, in_batches, powers_of_two
from mobile_jax.embeddings import (
  LONGEST_SCENE,
  SCENE_HOP,
  Pooling,
  check_pooling,
  describe_log_mel,
  parts_of,
)
from mobile_jax.inference import log_mel
from mobile_jax.network import Config, infer
from pipelines.kaldi_mel import PRE_EMPHASIS, KaldiMelConfig
from pipelines.mel import MelConfig

# What XLA compiles around the kernels of `mobile_jax.native` need not be fast for a few recordings
# of one length: compiled like this, a program of mn04 takes a fifth of the time, and a clip 1.5 ms
# more. Releases of JAX from 0.11 on have one emitter alone.
_HURRY: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
  _HURRY["xla_cpu_use_fusion_emitters"] = False

LONG = 0  # the group of recordings that are longer than one pass
MOST_WINDOWS = 128


class MobileEmbedder:
  """Scene and timestamp embeddings of MN and DyMN (reference text, section 9).

  Args:
    cfg, variables: as `mobile_jax.read_model` gives them.
    features, pooling: as in `mobile_jax.scene_embeddings`.
    timestamps: (window, hop) in seconds, or None for scenes alone.
    batch_seconds: of audio that go through the network side by side.
  """

  def __init__(
    self,
    cfg: Config,
    variables: dict,
    *,
    features: Sequence[str] = ("blocks", "mel"),
    pooling: Pooling = "avg",
    timestamps: tuple[float, float] | None = None,
    batch_seconds: float | int = 80.0,
  ):
    check_pooling(pooling)
    self.cfg, self.variables, self.batch_seconds = cfg, variables, batch_seconds
    self.sample_rate = cfg.mel.sample_rate
    self.parts = parts_of(features, cfg)
    self.windows: tuple[int, int] | None = None
    if timestamps:
      window, hop = (round(t * self.sample_rate) for t in timestamps)
      self.windows = window, hop
    self.settings: dict[str, Any] = {"features": list(self.parts), "pooling": pooling}
    if timestamps:
      self.settings |= dict(zip(("window_seconds", "hop_seconds"), timestamps, strict=True))
    call = functools.partial(describe, parts=self.parts, pooling=pooling)
    self._describe = jax.jit(functools.partial(call, cfg), static_argnames="frames")
    self._describe_one = self._describe
    if _runs_in_kernels(cfg):
      native = functools.partial(call, cfg.with_compute(kernels="native"))
      self._describe_one = jax.jit(native, static_argnames="frames", compiler_options=_HURRY)

  def group(self, samples: int) -> Hashable:
    """The number of mel frames; LONG for scenes of more than 10 s."""
    least = self.cfg.mel.min_samples
    check_long_enough(samples, least, self.sample_rate, "are needed")
    if self.windows:
      half = self.windows[0] // 2 + 1
      check_long_enough(samples, half, self.sample_rate, "are needed for timestamps of this window")
    return LONG if samples > LONGEST_SCENE * self.sample_rate else self.cfg.mel.frames(samples)

  def rows(self, group: Hashable) -> int:
    """Recordings of about `batch_seconds` in all."""
    frames = self.cfg.mel.frames(round(LONGEST_SCENE * self.sample_rate))
    frames = frames if group == LONG or not isinstance(group, int) else group
    return self._at_once(frames * self.cfg.mel.hop_length)

  def embed(self, waves: Sequence[np.ndarray]) -> list[Embedding]:
    """One embedding per wave f32[s] of one group."""
    scenes = self.scenes(waves)
    if not self.windows:
      return [Embedding(scene) for scene in scenes]
    over_time = self.over_time(waves)
    return [Embedding(scene, *found) for scene, found in zip(scenes, over_time, strict=True)]

  def scenes(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """f32[d] of each wave of one group (section 9.1)."""
    if self.group(len(waves[0])) != LONG:
      return self._short_scenes(waves)
    window, hop = (round(t * self.sample_rate) for t in (LONGEST_SCENE, SCENE_HOP))
    return [np.mean(found, axis=0) for found in self._windowed(waves, window, hop)]

  def over_time(self, waves: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(f32[n, d], centres f32[n] in ms) of each wave (section 9.2)."""
    assert self.windows is not None
    window, hop = self.windows
    step = 1000 * hop / self.sample_rate
    return [
      (found, (step * np.arange(len(found))).astype(np.float32))
      for found in self._windowed(waves, window, hop)
    ]

  def _at_once(self, samples: int) -> int:
    return max(1, min(MOST_WINDOWS, int(self.batch_seconds * self.sample_rate / samples)))

  def _short_scenes(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
    frames = self.cfg.mel.frames(len(waves[0]))

    def call(wave: np.ndarray) -> tuple[jax.Array]:
      made = self._describe_one if len(wave) == 1 else self._describe
      return (made(self.variables, wave, frames=frames),)

    rows = [(with_reflected_end(wave, self.cfg.mel),) for wave in waves]
    # Lengths are many here, and each size is one more program for each of them.
    sizes = sorted({1, self._at_once(frames * self.cfg.mel.hop_length)})
    return [scene for (scene,) in in_batches(call, rows, sizes)]

  def _windowed(self, waves: Sequence[np.ndarray], window: int, hop: int) -> list[np.ndarray]:
    """f32[n, d] of the windows of each wave."""
    cuts = [windows_of(wave, window, hop) for wave in waves]
    call = functools.partial(self._describe, self.variables, frames=self.cfg.mel.frames(window))
    rows = [(row,) for cut in cuts for row in cut]
    made = in_batches(lambda wave: (call(wave),), rows, powers_of_two(self._at_once(window)))
    ends = np.cumsum([len(cut) for cut in cuts])
    return np.split(np.stack([x for (x,) in made]), ends[:-1])


def _runs_in_kernels(cfg: Config) -> bool:
  """Whether the network's work on this machine is that of `mobile_jax.native`."""
  from mobile_jax import native

  compute = cfg.compute
  plain = compute.kernels == "xla" or compute.dtype != "float32"
  return not plain and jax.default_backend() == "cpu" and native.available()


def describe(
  cfg: Config,
  variables: dict,
  wave: Float[Array, "b s"],
  *,
  parts: tuple[str, ...],
  pooling: Pooling,
  frames: int,
) -> Float[Array, "b d"]:
  """The embedding from the first `frames` frames of the log-mel."""
  mel = log_mel(cfg, wave)[..., :frames]
  return describe_log_mel(cfg, infer(cfg, variables, mel), mel, parts, pooling)


def windows_of(
  wave: Float32[np.ndarray, " s"], window: int, hop: int
) -> Float32[np.ndarray, "n window"]:
  """Windows centred on every hop of the reflected wave, as a view (reference text, section 9.2)."""
  padded = np.pad(wave, window // 2, mode="reflect")
  return sliding_window_view(padded, window)[::hop]


def with_reflected_end(
  wave: Float32[np.ndarray, " s"], mel: KaldiMelConfig | MelConfig
) -> Float32[np.ndarray, " longer"]:
  """A longer wave whose first `mel.frames(s)` frames are those of the wave; the rest is to drop.

  Its length depends on the number of frames alone. The front end ends a wave by reflecting its
  pre-emphasis y[t] = x[t + 1] - 0.97 x[t]; here x goes on in such a way that its pre-emphasis is
  that reflection, x[t + 1] = y'[t] + 0.97 x[t], for half an analysis window. In float32 the two
  differ by rounding. A front end without pre-emphasis reflects the wave itself.
  """
  if isinstance(mel, MelConfig):
    longer = np.pad(wave, (0, mel.n_fft // 2), mode="reflect")
    return np.pad(longer, (0, mel.frames(len(wave)) * mel.hop_length - len(wave)))
  half = mel.win_length // 2
  tail = wave[-half - 2 :].astype(np.float64)
  reflected = (tail[1:] - PRE_EMPHASIS * tail[:-1])[-2::-1][:half]
  more, _ = lfilter([1.0], [1.0, -PRE_EMPHASIS], reflected, zi=[PRE_EMPHASIS * tail[-1]])
  longer = np.zeros(mel.frames(len(wave)) * mel.hop_length + half, np.float32)
  longer[: len(wave)] = wave
  longer[len(wave) : len(wave) + half] = more
  return longer
