"""How a candidate is looked at on the validation part: in the program, or by a call out of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.hear.embeddings import Part
from experiments.evaluation.hear.events import events_of
from experiments.evaluation.hear.folder import Event, TaskFolder
from experiments.evaluation.hear.predictor import Look
from experiments.evaluation.hear.program_scores import probabilities, program_score
from experiments.evaluation.hear.scores import LOWER_IS_BETTER, event_scores
from pipelines.errors import DataError


def look_of(folder: TaskFolder, valid: Part) -> Look:
  """The look of a task at one validation part.

  Clips are scored inside the program, and so is what is stopped by its loss. Events are made and
  scored on the host, for every postprocessing that is tried: the best is the choice, the last of
  equal ones in ascending order.
  """
  name = "loss" if folder.by_loss else folder.scores[0]
  if not folder.events or folder.by_loss:
    return _inside(name, folder.tags)
  truth = folder.truth_of(valid.files)

  def on_host(told: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    tried = []
    for i, settings in enumerate(folder.postprocessing):
      events = found_events(folder, valid, np.asarray(told), settings)
      score = next(iter(event_scores(name, events, truth, folder.labels).values()))
      score = 0.0 if math.isnan(score) else score
      tried.append((-score if name in LOWER_IS_BETTER else score, settings, i))
    score, _, choice = max(tried)
    return np.asarray(score, np.float32), np.asarray(choice, np.int32)

  def look(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    shapes = (jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32))
    told = probabilities(logits, folder.tags)
    return jax.pure_callback(on_host, shapes, told, vmap_method="sequential")

  return look


def found_events(
  folder: TaskFolder, part: Part, told: np.ndarray, settings: tuple[float, float]
) -> Mapping[str, Sequence[Event]]:
  """The events of every recording of a part, from the probabilities f32[n, k] of its moments."""
  found = {}
  for i, file in enumerate(part.files):
    rows = part.owner == i
    found[file] = events_of(told[rows], part.times[rows], folder.labels, *settings)
  return found


@functools.cache
def _inside(name: str, tags: bool) -> Look:
  """One function for all folds, which then share a program."""
  score = program_score(name, tags)
  if score is None:
    raise DataError(f"score {name!r}: no score of clips that is known here")
  return lambda logits, targets: (score(logits, targets), jnp.int32(0))
