"""One feature vector per clip from a frame-wise embedding, over whole labelled sets.

Clips of similar length share a batch whose shape comes from a short list, so that few shapes are
compiled however many lengths occur. Padding is never pooled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pipelines.errors import DataError
from pipelines.progress import Progress
from pipelines.tasks import LabelledSet

TOKEN_SAMPLES = 640  # 25 embeddings per second at 16 kHz
SAMPLE_RATE = 16_000
# Bucket lengths per decade: steps of 20 to 33 %, and the usual 5 s and 10 s are met exactly.
DECADE = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
SHORTEST_SECONDS = 0.5

# embed(params, wave f32[b, s], lengths i32[b]) -> f32[b, t, d]
Embed = Callable[[Any, jax.Array, jax.Array], jax.Array]
Tokens: TypeAlias = Float[Array, "b t d"]
Valid: TypeAlias = Bool[Array, "b t"]
Pooled: TypeAlias = Float[Array, "b e"]


def pool_mean(tokens: Tokens, valid: Valid) -> Pooled:
  """Mean over the valid tokens."""
  return jnp.einsum("btd,bt->bd", tokens, valid / valid.sum(axis=1, keepdims=True))


def pool_std(tokens: Tokens, valid: Valid) -> Pooled:
  """Standard deviation (divisor: number of valid tokens) over the valid tokens."""
  centred = tokens - pool_mean(tokens, valid)[:, None]
  return jnp.sqrt(pool_mean(jnp.square(centred), valid))


def pool_max(tokens: Tokens, valid: Valid) -> Pooled:
  """Largest value over the valid tokens."""
  return jnp.max(jnp.where(valid[..., None], tokens, -jnp.inf), axis=1)


Pooling = Literal["mean", "max", "mean_std", "mean_max", "mean_std_max"]
POOLINGS: dict[str, tuple[Callable[[Tokens, Valid], Pooled], ...]] = {
  "mean": (pool_mean,),
  "max": (pool_max,),
  "mean_std": (pool_mean, pool_std),
  "mean_max": (pool_mean, pool_max),
  "mean_std_max": (pool_mean, pool_std, pool_max),
}


def bucket_samples(samples: int) -> int:
  """Length that a clip is padded to: the next in the list, at least half a second.

  One token more than a listed length is a length of its own: decoders of lossy formats return some
  samples more than went in, and "5 s" should not be padded to 6 s for that.
  """
  samples = max(samples, round(SHORTEST_SECONDS * SAMPLE_RATE))
  decade = 10.0 ** math.floor(math.log10(samples / SAMPLE_RATE))
  for step in (*DECADE, 10.0):
    listed = round(decade * step * SAMPLE_RATE)
    if samples <= listed + TOKEN_SAMPLES:
      return listed if samples <= listed else listed + TOKEN_SAMPLES
  raise AssertionError("the decade above holds every length")


def valid_tokens(lengths: jax.Array, tokens: int, token_samples: int) -> jax.Array:
  """bool[b, tokens]: token i is valid if i < floor(length / token_samples), the first always."""
  return jnp.arange(tokens)[None] < jnp.maximum(lengths // token_samples, 1)[:, None]


def embed_set(
  embed: Embed,
  params: Any,
  labelled_set: LabelledSet,
  pooling: str = "mean",
  *,
  token_samples: int = TOKEN_SAMPLES,
  batch_seconds: float | int = 160.0,
  progress: bool = True,
) -> np.ndarray:
  """Pooled features f32[n, d] of every clip, in the order of the set.

  `embed(params, wave f32[b, s], lengths i32[b]) -> f32[b, t, d]` yields a token per `token_samples`
  samples. A batch holds about `batch_seconds` of audio. Raises DataError for an unknown pooling or
  an empty clip.
  """
  if pooling not in POOLINGS:
    raise DataError(f"pooling: unknown {pooling!r}; choose one of {', '.join(POOLINGS)}")

  @jax.jit
  def features(params: Any, wave: jax.Array, lengths: jax.Array) -> jax.Array:
    tokens = embed(params, wave, lengths)
    valid = valid_tokens(lengths, tokens.shape[1], token_samples)
    return jnp.concatenate([pool(tokens, valid) for pool in POOLINGS[pooling]], axis=-1)

  rows: dict[int, np.ndarray] = {}
  bar = Progress(
    f"embedding {labelled_set.name}", len(labelled_set), "clips", 2.0 if progress else math.inf
  )
  with bar:
    for index, wave, lengths in batches(labelled_set, batch_seconds):
      vectors = np.asarray(features(params, wave, lengths), np.float32)
      rows.update(
        zip(index, vectors, strict=False)
      )  # the rows that fill up the batch have no index
      bar.add(len(index))
  return np.stack([rows[i] for i in range(len(labelled_set))])


def batches(
  labelled_set: LabelledSet, batch_seconds: float | int
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
  """Yields (clip numbers, wave f32[b, s], lengths i32[b]); zeros follow a clip in its row."""
  waiting: dict[int, list[tuple[int, np.ndarray]]] = {}
  for i in range(len(labelled_set)):
    wave = labelled_set.load(i)
    if not wave.size:
      raise DataError(f"{labelled_set.name}: clip {labelled_set.ids[i]!r} is empty")
    size = bucket_samples(wave.size)
    clips = waiting.setdefault(size, [])
    clips.append((i, wave))
    if len(clips) == _rows(size, batch_seconds):
      yield _batch(waiting.pop(size), size, batch_seconds)
  left: list[tuple[int, np.ndarray]] = []
  for size in sorted(waiting):
    left += waiting[size]
    rows = _rows(size, batch_seconds)
    # A few clips of a rare length go along with longer ones: padding is cheaper than a compilation.
    if len(left) >= rows // 2 or size == max(waiting):
      for first in range(0, len(left), rows):
        yield _batch(left[first : first + rows], size, batch_seconds)
      left = []


def _rows(size: int, batch_seconds: float | int) -> int:
  return max(1, min(128, int(batch_seconds * SAMPLE_RATE / size)))


def _batch(
  clips: list[tuple[int, np.ndarray]], size: int, batch_seconds: float | int
) -> tuple[list[int], np.ndarray, np.ndarray]:
  rows = _rows(size, batch_seconds)
  wave, lengths = np.zeros((rows, size), np.float32), np.full(rows, TOKEN_SAMPLES, np.int32)
  for row, (_, clip) in enumerate(clips):
    wave[row, : clip.size], lengths[row] = clip, clip.size
  return [i for i, _ in clips], wave, lengths
