"""The scores that training looks at, inside the compiled program.

They equal those of `scores.py`, ties included: equal scores share the precision of the last of
them, and half a place each below the other in the area.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import ndtri
from jaxtyping import Array, Bool, Float, Float32

from experiments.evaluation.hear.scores import CHROMA

Logits = Float32[Array, "n k"]
Targets = Float32[Array, "n k"]
# (logits, targets) -> a figure of which more is better
ProgramScore = Callable[[Array, Array], Array]


def loss(logits: Logits, targets: Targets, tags: bool) -> Float[Array, ""]:
  """The mean over rows of -ln p of the label, or over rows and labels of the binary one."""
  if tags:
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean()
  return optax.softmax_cross_entropy(logits, targets).mean()


def probabilities(logits: Logits, tags: bool) -> Float32[Array, "n k"]:
  """In [0, 1]; rows sum to 1 where there is one label."""
  return jax.nn.sigmoid(logits) if tags else jax.nn.softmax(logits, axis=-1)


def average_precision(score: Float[Array, " n"], positive: Bool[Array, " n"]) -> Float[Array, ""]:
  """Of one class; 0 where nothing is positive."""
  order = jnp.argsort(-score)
  falling, hit = -score[order], positive[order]
  last = jnp.searchsorted(falling, falling, side="right")  # of those that share a score, from 1
  precision = jnp.cumsum(hit)[last - 1] / last
  return jnp.sum(jnp.where(hit, precision, 0.0)) / jnp.maximum(hit.sum(), 1)


def area(score: Float[Array, " n"], positive: Bool[Array, " n"]) -> Float[Array, ""]:
  """Under the receiver's curve of one class; NaN where there is no positive or no negative."""
  rising = jnp.sort(score)
  low, high = (jnp.searchsorted(rising, score, side=side) for side in ("left", "right"))
  rank = (low + high + 1) / 2
  positives = positive.sum()
  negatives = positive.size - positives
  above = jnp.sum(jnp.where(positive, rank, 0.0)) - positives * (positives + 1) / 2
  return above / (positives * negatives)


def program_score(name: str, tags: bool) -> ProgramScore | None:
  """The score of that name, or the negative loss for "loss"; None for those of events."""

  def over_classes(figure: Callable[[Array, Array], Array]) -> ProgramScore:
    def mean(logits: Logits, targets: Targets) -> Float[Array, ""]:
      found = jax.vmap(figure, in_axes=1)(probabilities(logits, tags), targets > 0.5)
      return jnp.mean(found)

    return mean

  def matching(octave: int | None) -> ProgramScore:
    def share(logits: Logits, targets: Targets) -> Float[Array, ""]:
      found, right = logits.argmax(axis=1), targets.argmax(axis=1)
      if octave:
        found, right = found % octave, right % octave
      return jnp.mean(found == right)

    return share

  return {
    "loss": lambda logits, targets: -loss(logits, targets, tags),
    "top1_acc": matching(None),
    "pitch_acc": matching(None),
    "chroma_acc": matching(CHROMA),
    "mAP": over_classes(average_precision),
    "aucroc": over_classes(area),
    "d_prime": over_classes(lambda s, p: math.sqrt(2) * ndtri(area(s, p))),
  }.get(name)
