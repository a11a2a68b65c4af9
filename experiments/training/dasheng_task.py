"""Dasheng's masked autoencoder as a `Task`, and its encoder taken out of a training state."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from dasheng_jax.blocks import stack_layers
from dasheng_jax.config import DashengConfig
from dasheng_jax.mae import init_variables, pretrain_loss
from dasheng_jax.sharding import PARAM_AXES
from experiments.training.rounding import widen
from experiments.training.state import TrainState
from experiments.training.task import Batch, Metrics, Task, Tree


def dasheng_task(cfg: DashengConfig) -> Task:
  """Pre-training of one configuration: masked reconstruction of `batch["wave"]`."""

  def init(key: jax.Array) -> dict[str, Tree]:
    variables = init_variables(cfg, key)
    return {"params": variables["params"], "model_state": variables["batch_stats"]}

  def loss(
    params: Tree, model_state: Tree, batch: Batch, key: jax.Array, train: bool
  ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
    return pretrain_loss(
      cfg,
      params,
      model_state,
      batch["wave"],
      key,
      train,
      valid=batch.get("valid"),
      rows=batch.get("mask"),
    )

  return Task(init, loss, PARAM_AXES)


def encoder_of(state: TrainState) -> dict[str, Any]:
  """The encoder's {"params", "batch_stats"} in float32, layers stacked.

  The moving average if there is one.
  """
  params = state.params if state.ema is None else state.ema
  encoder = params["encoder"]
  if "layers" not in encoder["blocks"]:  # weight files and evaluation know the scanned form alone
    encoder = {**encoder, "blocks": stack_layers(encoder["blocks"])}
  return {"params": widen(encoder), "batch_stats": state.model_state["encoder"]}


def for_evaluation(cfg: DashengConfig) -> DashengConfig:
  """The same encoder, with features that do not depend on a clip's neighbours in its batch."""
  mel = dataclasses.replace(cfg.mel, clamp="sample")
  return dataclasses.replace(cfg, mel=mel).with_compute(
    dtype="float32", remat="none", scan=True, attention="xla"
  )
