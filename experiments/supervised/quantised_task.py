"""Quantisation-aware fine-tuning as a `Task`: folded parameters, ranges as what has no gradient.

    wave -> augmented log-mel -> folded CP-Mobile, quantised and back -> logits -> loss
                                 ranges move, but not in the last epochs

Reference text of the scene models, section 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.supervised.network import Start
from experiments.supervised.task import (
  PARAM_AXES,
  Recipe,
  augmented,
  evaluation_loss,
  training_loss,
)
from experiments.training.task import Batch, Metrics, Task, Tree
from mobile_jax.network import Config, init_variables
from mobile_jax.quantised import (
  convert,
  fold,
  fresh_ranges,
  integer_logits,
  observed_logits,
  simulated_logits,
)
from mobile_jax.scene_config import CPMobileConfig
from pipelines.kaldi_mel import log_mel_32k


def quantised_task(model: CPMobileConfig, recipe: Recipe, frozen_epochs: int) -> Task:
  """The task of a folded CP-Mobile; see `supervised_task`.

  `outputs` of an evaluation are f32[b, 2, classes]: logits of the simulation and of the integers
  that it converts to. The loss is the simulation's. frozen_epochs: the last ones of the run, in
  which ranges stay; the scheduled value `observing` is 1 before them.
  """

  def init(key: jax.Array) -> dict[str, Tree]:
    return _folded(model, init_variables(model, key))

  def loss(
    params: Tree, model_state: Tree, batch: Batch, key: jax.Array, train: bool
  ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
    ranges = model_state["ranges"]
    if train:
      # Split as the float task does it: the same seed draws the same augmentations.
      inputs = augmented(model, recipe, batch, jax.random.split(key)[0])
      observing = batch["observing"] > 0
      logits, ranges = observed_logits(model, params, ranges, inputs.log_mel, observing)
      value, metrics = training_loss(recipe, logits, batch, inputs)
      return value, ({"ranges": ranges}, metrics)
    log_mel = log_mel_32k(batch["wave"], model.mel)
    logits = simulated_logits(model, params, ranges, log_mel)
    integer = integer_logits(model, convert(model, params, ranges), log_mel)
    value, counted = evaluation_loss(model, recipe, logits, batch)
    outputs = jnp.stack([logits, integer], axis=1)
    return value, (model_state, {"counted": counted, "outputs": outputs})

  count = recipe.epochs.count
  observing = recipe.epochs.table(lambda epoch: float(epoch < count - frozen_epochs))
  return Task(init, loss, PARAM_AXES, (("observing", observing),))


def folded_start(model: Config, start: Start) -> Start:
  """What reads a float network's weights, made what reads the folded ones of a new run."""

  def read() -> Mapping[str, Any]:
    found = start()
    return jax.device_get(_folded(model, {"params": found["params"], **found["model_state"]}))

  return read


def _folded(model: Config, variables: Mapping[str, Any]) -> dict[str, Tree]:
  assert isinstance(model, CPMobileConfig)
  return {"params": fold(model, variables), "model_state": {"ranges": fresh_ranges(model)}}
