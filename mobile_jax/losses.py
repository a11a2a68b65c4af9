"""Losses of tagging and scene training, one value per clip.

A clip's value is the mean over its classes. The mean over clips is left to the caller, who knows
which rows are padding and how microbatches weigh. `share` and `partner` describe a mixed clip: this
share of itself, the rest of row `partner` (`pipelines.mixing`).

Source: reference text of MN and DyMN, sections 10.1 and 10.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# What becomes of the distillation term of a clip that was mixed with one the teacher does not know.
# "drop": the term is dropped, as that of an unknown clip is. "as_given": the partner's row is
# believed, whatever the array holds there (the released code reads the array's last row).
Partner = Literal["drop", "as_given"]
# What the distillation of one class is a mean over, before the caller's mean over clips.
MeanOver = Literal["clips", "clips_and_classes"]
# What PyTorch's BCELoss keeps logarithms, and the divisor of its gradient, from falling below.
_LEAST_LOG, _LEAST_SPREAD = -100.0, 1e-12


def binary_cross_entropy(
  logits: Float[Array, "b k"], targets: Float[Array, "b k"]
) -> Float[Array, "b k"]:
  """-t log s(x) - (1 - t) log(1 - s(x)), s the logistic function, without overflow."""
  return jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


@jax.custom_jvp
def probability_cross_entropy(
  probabilities: Float[Array, "b k"], targets: Float[Array, "b k"]
) -> Float[Array, "b k"]:
  """-t log p - (1 - t) log(1 - p) with logarithms of at least -100, as PyTorch's BCELoss has it.

  That is how the weakly supervised taggers are published; `binary_cross_entropy` of logits is the
  same where p is neither 0 nor 1 in float32. The slope (p - t) / (p (1 - p)), its divisor at least
  1e-12, is PyTorch's too: at p = 0 and 1 it is 1e12, not that of a clamp.
  """
  hit, miss = (jnp.maximum(jnp.log(p), _LEAST_LOG) for p in (probabilities, 1 - probabilities))
  return -targets * hit - (1 - targets) * miss


@probability_cross_entropy.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
  p, t = primals
  slope = (p - t) / jnp.maximum((1 - p) * p, _LEAST_SPREAD)
  change = slope * tangents[0]
  hit, miss = (jnp.maximum(jnp.log(x), _LEAST_LOG) for x in (p, 1 - p))
  return probability_cross_entropy(p, t), change + (miss - hit) * tangents[1]


def tag_loss(
  logits: Float[Array, "b k"],
  targets: Float[Array, "b k"],
  counted: Float[Array, "b k"] | None = None,
) -> Float[Array, " b"]:
  """Binary cross entropy; `counted` (OpenMIC's mask) is 0 at classes that nobody has judged.

  Those still count in the number of classes that is divided by, as released.
  """
  values = binary_cross_entropy(logits, targets)
  return jnp.mean(values if counted is None else values * counted, axis=1)


def class_loss(logits: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Float[Array, " b"]:
  """Cross entropy against probabilities, which a mixture of labels is."""
  return -jnp.sum(targets * jax.nn.log_softmax(logits, axis=1), axis=1)


def soft_tag_loss(
  logits: Float[Array, "b k"],
  teacher_logits: Float[Array, "b k"],
  known: Bool[Array, " b"],
  share: Float[Array, " b"],
  partner: Int[Array, " b"],
  *,
  temperature: float = 1.0,
  unknown_partner: Partner = "drop",
) -> Float[Array, " b"]:
  """Distillation: cross entropy against s(teacher / temperature), mixed as the clips were.

  0 for clips the teacher does not know; a mean over all clips still divides by all of them, as
  released. Rows of unknown clips may hold anything, NaN included.
  """
  targets, used = _taught(
    lambda x: jax.nn.sigmoid(x / temperature),
    teacher_logits,
    known,
    share,
    partner,
    unknown_partner,
  )
  values = jnp.mean(binary_cross_entropy(logits, targets), axis=1)
  return jnp.where(used, values, 0.0)


def soft_class_loss(
  logits: Float[Array, "b k"],
  teacher_logits: Float[Array, "b k"],
  known: Bool[Array, " b"],
  share: Float[Array, " b"],
  partner: Int[Array, " b"],
  *,
  temperature: float = 1.0,
  unknown_partner: Partner = "drop",
  mean_over: MeanOver = "clips",
) -> Float[Array, " b"]:
  """Distillation of one class: temperature**2 * KL(teacher, student), both at the temperature.

  Hinton, Vinyals, Dean: arXiv 1503.02531, section 2. The probabilities are mixed as the clips were.
  Rows of clips that the teacher does not know are treated as in `soft_tag_loss`. mean_over:
  "clips_and_classes" divides by the number of classes too, as the released code of the scene
  students does; their paper has the other (reference text of the scene models, section 6).
  """
  targets, used = _taught(
    lambda x: jax.nn.softmax(x / temperature, axis=1),
    teacher_logits,
    known,
    share,
    partner,
    unknown_partner,
  )
  student = jax.nn.log_softmax(logits / temperature, axis=1)
  values = jnp.sum(jax.scipy.special.xlogy(targets, targets) - targets * student, axis=1)
  if mean_over == "clips_and_classes":
    values = values / logits.shape[1]
  return jnp.where(used, temperature**2 * values, 0.0)


def _taught(
  probabilities: Callable[[jax.Array], jax.Array],
  teacher_logits: Float[Array, "b k"],
  known: Bool[Array, " b"],
  share: Float[Array, " b"],
  partner: Int[Array, " b"],
  unknown_partner: Partner,
) -> tuple[Float[Array, "b k"], Bool[Array, " b"]]:
  """(the teacher's targets mixed as the clips were, which of them count)."""
  believed = known | (unknown_partner == "as_given")
  targets = probabilities(jnp.where(believed[:, None], teacher_logits, 0.0))
  # Both losses are linear in their targets but for a constant, so mixing these mixes the terms.
  part = share[:, None]
  mixed = part * targets + (1 - part) * targets[partner]
  return mixed, known & (believed[partner] | (share == 1))


def distilled(
  label: Float[Array, " b"], soft: Float[Array, " b"], label_weight: float
) -> Float[Array, " b"]:
  """label_weight of the label's term and the rest of the teacher's; 0 means labels alone.

  0 as released, where it switches distillation off and does not mean pure distillation. Tiny
  weights are not 0 and do.
  """
  if not 0 <= label_weight <= 1:
    raise ValueError(f"label_weight is {label_weight}; it must be from 0 (labels alone) to 1")
  return label_weight * label + (1 - label_weight) * soft if label_weight else label
