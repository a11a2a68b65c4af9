"""Embeddings over time of the CNNs and of PaSST: one pass over a stretch, a vector per time step.

    MN, DyMN                      chosen parts, averaged over frequency and over each time step
    MobileNetV2, EfficientNet-B0  the last convolution, averaged over frequency
    CP-Mobile, CP-ResNet          the last map, averaged over frequency
    PaSST                         the tokens of each column of patches, averaged

The mean over the steps is what the network pools: `mobile_jax.scene_embeddings` of whole steps for
MN and DyMN, and the pooled features of the other CNNs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce
from jaxtyping import Array, Float, Float32

from dasheng_jax.errors import ConfigError
from experiments.embedding.embedder import in_batches
from mobile_jax.embeddings import ORDER, parts_of
from mobile_jax.families import Scene, Tagger
from mobile_jax.inference import alone, least_samples, log_mel
from mobile_jax.mn import Outputs
from mobile_jax.network import Config, Variables, infer
from mobile_jax.passt_config import PaSSTConfig
from mobile_jax.scene_config import SECONDS

PASS_SECONDS = 10.0  # about as long as what taggers are trained on; scene models hear SECONDS
MOST_ROWS = 128
_LAST = "last"  # the part of networks whose parts have no names
_PROBE = 1024  # mel frames that every stride divides


@dataclasses.dataclass(frozen=True)
class Grid:
  """Where the embeddings of a pass stand, in mel frames.

  Attributes:
    step: from one embedding to the next.
    more: that the last one needs beyond its step.
    most, least: embeddings of one pass.
  """

  step: int
  more: int
  most: int
  least: int = 1

  def count(self, frames: int) -> int:
    """Embeddings of `frames` mel frames.

    Steps that a wave ends in count; a patch has to be whole, unless it is the only one.
    """
    whole = (frames - self.more) // self.step if self.more else math.ceil(frames / self.step)
    return max(self.least, whole)

  def cuts(self, count: int) -> list[tuple[int, int]]:
    """(first, number of embeddings) of each pass: as few passes as will do, alike in length."""
    sizes = [len(part) for part in np.array_split(np.arange(count), math.ceil(count / self.most))]
    return list(zip(np.cumsum([0, *sizes[:-1]]).tolist(), sizes, strict=True))

  def frames(self, count: int) -> int:
    """Mel frames that a pass of `count` embeddings hears."""
    return count * self.step + self.more


class MobileFrames:
  """Embeddings over time of a network of `mobile_jax`.

  Args:
    cfg, variables: as `mobile_jax.read_model` gives them. A clamp in dB looks at each stretch on
      its own: company must not change a result.
    features: of MN and DyMN, some of mel, blocks, all_blocks and b0 to b15; () is blocks and mel.
      The other families have one kind.
    batch_seconds: of audio that go through the network side by side.

  Attributes:
    sampling_rate: Hz. hop_ms: from one embedding to the next. output_dim: numbers of each.
    settings: all that decides the numbers, for JSON.
  """

  def __init__(
    self,
    cfg: Config,
    variables: Variables,
    *,
    features: Sequence[str] = (),
    batch_seconds: float | int = 80.0,
  ):
    self.cfg, self.variables, self.batch_seconds = alone(cfg), variables, batch_seconds
    self.parts = parts_over_time(cfg, features)
    self.grid = grid_of(self.cfg, variables, self.parts)
    self.sampling_rate = int(cfg.mel.sample_rate)
    self.hop_ms = 1000 * self.grid.step * cfg.mel.hop_length / cfg.mel.sample_rate
    self._call = jax.jit(functools.partial(embed, self.cfg, self.parts, self.grid.step))
    wave = jax.ShapeDtypeStruct((1, self._samples(self.grid.least)), jnp.float32)
    self.output_dim = jax.eval_shape(self._call, variables, wave).shape[-1]
    self.settings: dict[str, Any] = {"features": list(self.parts), "hop_ms": self.hop_ms}

  def group(self, samples: int) -> Hashable:
    """Waves of equally many embeddings can share a batch."""
    return self.grid.count(math.ceil(samples / self.cfg.mel.hop_length))

  def rows(self, group: Hashable) -> int:
    """Waves of about `batch_seconds` in all."""
    assert isinstance(group, int)
    seconds = self._samples(group) / self.sampling_rate
    return max(1, min(MOST_ROWS, int(self.batch_seconds / seconds)))

  def frames(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """f32[n, d] of each wave f32[s] of one group; zeros follow a wave up to a whole step."""
    count = self.group(len(waves[0]))
    assert isinstance(count, int)
    hop, made = self.grid.step * self.cfg.mel.hop_length, []
    for first, size in self.grid.cuts(count):
      samples = self._samples(size)
      cut = [wave[first * hop : first * hop + samples] for wave in waves]
      rows = [(np.pad(part, (0, samples - len(part))),) for part in cut]
      sizes = sorted({1, self.rows(size)})
      made.append(in_batches(lambda wave: (self._call(self.variables, wave),), rows, sizes))
    return [np.concatenate([x for (x,) in parts]) for parts in zip(*made, strict=True)]

  def centres_ms(self, count: int) -> Float32[np.ndarray, " count"]:
    """Of `count` embeddings in ms: the middle of a step, or of a whole patch."""
    frame_ms = 1000 * self.cfg.mel.hop_length / self.cfg.mel.sample_rate
    middle = (self.grid.step + self.grid.more) / 2
    return (frame_ms * (self.grid.step * np.arange(count) + middle)).astype(np.float32)

  def _samples(self, count: int) -> int:
    return self.grid.frames(count) * self.cfg.mel.hop_length


def parts_over_time(cfg: Config, features: Sequence[str]) -> tuple[str, ...]:
  """The parts of `mobile_jax.embeddings` that have a time axis, in the released order.

  Families other than MN and DyMN have one. Raises ConfigError for a part without time.
  """
  if not isinstance(cfg, Tagger):
    return (_LAST,)
  parts = parts_of(tuple(features) or ("blocks", "mel"), cfg)
  if late := [part for part in parts if part != "mel" and part not in ORDER[-16:]]:
    raise ConfigError(f"feature {late[0]!r} has no time axis; choose from mel, blocks, b0 to b15")
  return parts


def grid_of(cfg: Config, variables: Variables, parts: Sequence[str]) -> Grid:
  """Steps as wide as those of the coarsest part; patches as PaSST's tables have them.

  A pass is at most about as long as the clips that the model is trained on.
  """
  scene = isinstance(cfg, Scene) and cfg.objective == "classes"
  longest = SECONDS if scene else PASS_SECONDS
  if isinstance(cfg, PaSSTConfig):
    grid = Grid(cfg.stride, cfg.patch - cfg.stride, cfg.columns)
    whole = grid.count(round(longest * cfg.mel.sample_rate / cfg.mel.hop_length))
    return dataclasses.replace(grid, most=min(cfg.columns, whole))
  mel = jax.ShapeDtypeStruct((1, cfg.mel.mel_bins, _PROBE), jnp.float32)
  outputs = jax.eval_shape(functools.partial(infer, cfg), variables, mel)
  counts = [stage_of(outputs, part).shape[2] for part in parts if part != "mel"]
  # A network without padding at the ends loses a step of a long stretch.
  step = 2 ** max((round(math.log2(_PROBE / count)) for count in counts), default=0)
  seconds = step * cfg.mel.hop_length / cfg.mel.sample_rate
  least = math.ceil(least_samples(cfg) / (step * cfg.mel.hop_length))
  return Grid(step, 0, math.ceil(longest / seconds), least)


def stage_of(outputs: Outputs, part: str) -> Float[Array, "b f t c"]:
  """The map that a part is taken from."""
  return outputs.stages[-1 if part == _LAST else int(part.removeprefix("b"))]


def embed(
  cfg: Config, parts: tuple[str, ...], step: int, variables: Variables, wave: Float[Array, "b s"]
) -> Float[Array, "b n d"]:
  """The embeddings of one pass, from waves of a whole number of mel hops."""
  frames = wave.shape[1] // cfg.mel.hop_length
  mel = log_mel(cfg, wave, frames)
  outputs = infer(cfg, variables, mel)
  if isinstance(cfg, PaSSTConfig):
    tokens = outputs.stages[-1][:, 2:].astype(jnp.float32)
    return reduce(tokens, "b (f t) d -> b t d", "mean", f=cfg.rows)
  count = frames // step

  def part(name: str) -> Float[Array, "b n d"]:
    if name == "mel":
      return in_steps(rearrange(mel, "b f t -> b t f"), count)
    return in_steps(jnp.mean(stage_of(outputs, name).astype(jnp.float32), axis=1), count)

  return jnp.concatenate([part(name) for name in parts], axis=-1)


def in_steps(x: Float[Array, "b t d"], count: int) -> Float[Array, "b n d"]:
  """Means over `count` equal stretches; the last row stands for those that a network lost."""
  each = math.ceil(x.shape[1] / count)
  x = jnp.pad(x, ((0, 0), (0, count * each - x.shape[1]), (0, 0)), mode="edge")
  return reduce(x, "b (n each) d -> b n d", "mean", each=each)
