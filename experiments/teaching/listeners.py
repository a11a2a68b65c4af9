"""Teachers as functions from waves to logits: networks of ours, and probes on frozen encoders.

    mn10_as.pt, runs/mine/export/model.safetensors    a tagger or scene model, as it is
    dasheng:encoder.safetensors                       an encoder that was trained without labels,
                                                      with a linear probe on its mean embedding

A probe is fitted on the training part of the set. What it says of a clip that it was fitted on
would be little more than the clip's label, so each recording is judged by a probe that has not met
it: recordings fall into as many folds as `folds`, by a stable hash of their ids.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training.errors import UsageError
from mobile_jax.inference import alone, tag
from mobile_jax.weights.load import read_model
from pipelines.sets import Objective

PROBE = "dasheng:"
_PROBE_STEPS = 1_000  # of scikit-learn's solver


@dataclasses.dataclass(frozen=True)
class Listener:
  """A teacher.

  Attributes:
    name: short.
    rate: Hz, of the waves it hears.
    hear: (wave f32[b, s], valid i32[b]) -> f32[b, k]: logits, or embeddings of a probe.
    probe: (embeddings f32[n, d], ids, whether each may be fitted on, labels) -> logits f32[n, k];
      None for a network that gives logits itself.
  """

  name: str
  rate: int
  hear: Callable[[np.ndarray, np.ndarray], np.ndarray]
  probe: Callable[[np.ndarray, Sequence[str], np.ndarray, np.ndarray], np.ndarray] | None = None


def open_listener(spec: str, classes: int, objective: Objective, folds: int) -> Listener:
  """The teacher that a text names; UsageError or WeightsError where there is none."""
  if spec.startswith(PROBE):
    return _encoder(spec.removeprefix(PROBE), classes, objective, folds)
  cfg, variables = read_model(spec)
  if cfg.classes != classes:
    raise UsageError(
      f"teacher {spec}: it tells {cfg.classes} classes apart, the set has {classes}; fine-tune it "
      "on the set first (experiments.finetune)"
    )
  forward = jax.jit(functools.partial(tag, alone(cfg)))

  def hear(wave: np.ndarray, valid: np.ndarray) -> np.ndarray:
    del valid  # these networks hear padding as silence, in training too
    return np.asarray(forward(variables, wave)[0])

  return Listener(os.path.basename(spec), cfg.mel.sample_rate, hear)


def _encoder(path: str, classes: int, objective: Objective, folds: int) -> Listener:
  from dasheng_jax import load_encoder

  # What a clip is like must not depend on the loudest clip that happens to share its batch.
  embed, params = load_encoder(path, clamp="sample")
  token_samples = 640

  @jax.jit
  def pooled(wave: jax.Array, valid: jax.Array) -> jax.Array:
    tokens = embed(params, wave, lengths=valid)
    count = jnp.maximum(valid // token_samples, 1)
    real = (jnp.arange(tokens.shape[1])[None] < count[:, None])[..., None]
    return jnp.sum(jnp.where(real, tokens, 0.0), axis=1) / jnp.sum(real, axis=1)

  def hear(wave: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.asarray(pooled(wave, np.maximum(valid, 1)))

  probe = functools.partial(fit_probe, classes=classes, objective=objective, folds=folds)
  return Listener(PROBE + os.path.basename(path), 16_000, hear, probe)


def fit_probe(
  embeddings: np.ndarray,
  ids: Sequence[str],
  trainable: np.ndarray,
  labels: np.ndarray,
  *,
  classes: int,
  objective: Objective,
  folds: int,
) -> np.ndarray:
  """Logits f32[n, classes] of linear probes that were fitted on other recordings.

  Args:
    embeddings: f32[n, d].
    ids: of the recordings, which decide the folds.
    trainable: bool[n]; the others are judged by a probe fitted on all trainable ones.
    labels: i32[n], or tags f32[n, classes].
    classes: how many.
    objective: "classes" or "tags".
    folds: into how many parts the trainable recordings fall.
  """
  if folds < 2:
    raise UsageError(f"--folds {folds}: a probe that judges what it was fitted on needs 2 or more")
  fold = np.array([_fold(name, folds) for name in ids])
  logits = np.zeros((len(ids), classes), np.float32)
  for number in (*range(folds), None):
    judged = ~trainable if number is None else trainable & (fold == number)
    fitted = trainable if number is None else trainable & (fold != number)
    if judged.any():
      one = _one_probe(embeddings[fitted], labels[fitted], classes, objective)
      logits[judged] = one(embeddings[judged])
  return logits


def _fold(name: str, folds: int) -> int:
  digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
  return int.from_bytes(digest, "little") % folds


def _one_probe(
  x: np.ndarray, labels: np.ndarray, classes: int, objective: Objective
) -> Callable[[np.ndarray], np.ndarray]:
  from sklearn.linear_model import LogisticRegression
  from sklearn.preprocessing import StandardScaler

  if not len(x):
    raise UsageError("a probe has no recording to be fitted on; lower --folds, or add recordings")
  scaler = StandardScaler().fit(x)
  scaled = scaler.transform(x)

  def fit(y: np.ndarray) -> LogisticRegression:
    return LogisticRegression(max_iter=_PROBE_STEPS).fit(scaled, y)

  # What never occurs in the fitted part is unlikely, but as nobody knows how much, not impossible.
  unseen = -10.0
  if objective == "classes":
    if len(found := np.unique(labels)) < 2:
      raise UsageError("a probe needs recordings of two classes or more")
    model = fit(labels)

    def decide(features: np.ndarray) -> np.ndarray:
      logits = np.full((len(features), classes), unseen, np.float32)
      told = model.decision_function(scaler.transform(features))
      if told.ndim == 1:  # of two classes scikit-learn tells the second's logit alone
        told = np.stack([-told / 2, told / 2], axis=1)
      logits[:, found] = told
      return logits

    return decide
  marks = labels > 0.5
  models = {
    k: fit(marks[:, k]) for k in range(classes) if marks[:, k].any() and not marks[:, k].all()
  }

  def decide_tags(features: np.ndarray) -> np.ndarray:
    scaled = scaler.transform(features)
    logits = np.full((len(features), classes), unseen, np.float32)
    for k, model in models.items():
      logits[:, k] = model.decision_function(scaled)
    return logits

  return decide_tags
