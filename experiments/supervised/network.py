"""The network that a run trains, and the weights it begins with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from dasheng_jax.weights.record import read_record
from experiments.configs.supervised import SupervisedConfig
from experiments.supervised.recipe import TemperatureConfig
from experiments.training.errors import UsageError
from experiments.training.keys import stream_key
from mobile_jax.config import DyMNConfig, MNConfig
from mobile_jax.dynamic import temperature_at
from mobile_jax.families import Decision, size_of
from mobile_jax.models import MODELS
from mobile_jax.network import Config
from mobile_jax.passt_config import PaSSTConfig
from mobile_jax.weights.load import open_content, read_model, recorded
from pipelines import DataConfig
from pipelines.sets import Objective

# What of a front end belongs to training, and so to the run; all else comes with the weights.
_TRAINING_MEL = (
  "fmin_range",
  "fmax_range",
  "perturb",
  "freq_mask",
  "time_mask",
  "mask_sharing",
  "transform",
)
# What a recipe says of PaSST that its weights do not.
_TRAINING_PASST = ("patchout_time", "patchout_frequency", "patchout_tokens")
Start = Callable[[], Mapping[str, Any]]


def network_of(
  cfg: SupervisedConfig, classes: int, objective: Objective, devices: int
) -> tuple[Config, Start | None]:
  """(network, what reads the weights that a new run begins with), for a set's classes or tags.

  Weights of another number of classes keep all but the layers that depend on it, which are drawn
  from the run's seed. Raises WeightsError and ConfigError of `mobile_jax.read_model`.
  """
  model: Config = cfg.model
  start = None
  if cfg.init:
    found, _ = _weights(cfg, classes, jax.random.key(0))
    if type(found) is not type(cfg.model):
      kinds = [size_of(one).split(" of ")[0] for one in (found, cfg.model)]
      raise UsageError(
        f"--init {cfg.init}: is of the family {kinds[0]}, and this recipe is one for {kinds[1]}; "
        f"choose one of {kinds[0]} with --config (--help lists them)"
      )
    told = cfg.model.mel  # front ends in dB have none of these
    mel = {name: getattr(told, name) for name in _TRAINING_MEL if hasattr(told, name)}
    how = {"dtype": cfg.model.compute.dtype, "kernels": cfg.model.compute.kernels}
    network: Any = found  # no type says that a front end is of its network's kind
    heard = dataclasses.replace(network, mel=dataclasses.replace(network.mel, **mel))
    model = heard.with_compute(**how)
    if isinstance(model, MNConfig | DyMNConfig | Decision):
      model = dataclasses.replace(model, dropout=cfg.model.dropout)
    if isinstance(model, PaSSTConfig):
      patchout = {name: getattr(cfg.model, name) for name in _TRAINING_PASST}
      model = dataclasses.replace(model, **patchout)
    start = _reader(cfg, classes)
  model = dataclasses.replace(model, classes=classes, objective=objective)
  if isinstance(model, DyMNConfig):
    model = dataclasses.replace(
      model, temperature=last_temperature(cfg.temperature, cfg.loop.epochs)
    )
  if devices > 1:  # XLA does not split the CPU's own kernels over devices
    model = model.with_compute(kernels="xla")
  return model, start


def check_rate(data: DataConfig, model: Config) -> None:
  """UsageError where the waves are not of the rate that a network hears."""
  if data.sample_rate != model.mel.sample_rate:
    raise UsageError(
      f"--data.sample_rate {data.sample_rate}: the model hears {model.mel.sample_rate} Hz"
    )


def last_temperature(cfg: TemperatureConfig, epochs: int) -> float:
  """The temperature of the last epoch, which the trained network keeps."""
  return float(temperature_at(epochs - 1, **dataclasses.asdict(cfg)))


def _weights(cfg: SupervisedConfig, classes: int, key: jax.Array) -> tuple[Config, Any]:
  """What `--init` names. PaSST's files, and those of DeiT, go by many names: without a record they
  are of the recipe's network.
  """
  if isinstance(cfg.model, PaSSTConfig) and not _tells_its_network(cfg.init):
    return read_model(cfg.init, config=cfg.model, classes=classes, key=key)
  return read_model(cfg.init, classes=classes, key=key)


def _tells_its_network(init: str) -> bool:
  path = Path(init)
  if init in MODELS or not path.exists():
    return True
  return recorded(read_record(path, open_content(path)), path) is not None


def _reader(cfg: SupervisedConfig, classes: int) -> Start:
  def read() -> Mapping[str, Any]:
    key = stream_key(cfg.loop.seed, "head")
    _, variables = _weights(cfg, classes, key)
    variables = jax.device_get(variables)
    return {
      "params": variables["params"],
      "model_state": {"batch_stats": variables["batch_stats"]},
    }

  return read
