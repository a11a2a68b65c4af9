r"""One cell of the transfer study: a set, a network, and what of it is trained.

    python -m experiments.transfer --config esc50 --mode frozen --init WEIGHTS \
      --data.source esc50=FOLDER --fold all --workdir runs/esc50_frozen
    python -m experiments.transfer --config speech_commands_v2 --mode scratch \
      --student efficientnet_b0 --data.source speech_commands_v2=FOLDER --workdir runs/words

Any network of `mobile_jax` will do, at its own sample rate. `python -m experiments.study --config
transfer` runs many cells and makes the table.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.configs.supervised import SupervisedConfig
from experiments.configs.transfer import EXPERIMENTS, MODEL, TransferConfig
from experiments.studies.weights import network_of
from experiments.supervised.run import run
from experiments.training import cli, config_io
from experiments.training.cluster import join_cluster
from experiments.training.errors import UsageError
from mobile_jax.families import Config, named
from mobile_jax.models import MODELS


def resolved(cfg: TransferConfig) -> SupervisedConfig:
  """The run that a cell stands for; UsageError where its flags do not go together."""
  if cfg.mode != "scratch" and not cfg.init:
    raise UsageError(f"--mode {cfg.mode}: name the weights that it begins with, with --init")
  if cfg.frozen:
    raise UsageError("--frozen: say --mode frozen")
  if cfg.student and cfg.mode != "scratch":
    raise UsageError(f"--student: is of --mode scratch; {cfg.mode} has the network of --init")
  model = _network(cfg)
  fields = {field.name for field in dataclasses.fields(SupervisedConfig)}
  told: dict[str, Any] = {name: getattr(cfg, name) for name in fields}
  return dataclasses.replace(
    SupervisedConfig(**told),
    model=model,
    init="" if cfg.mode == "scratch" else cfg.init,
    frozen=cfg.mode == "frozen",
    data=dataclasses.replace(cfg.data, sample_rate=model.mel.sample_rate),
  )


def _network(cfg: TransferConfig) -> Config:
  if cfg.student:
    found = MODELS[cfg.student].config if cfg.student in MODELS else named(cfg.student)
    return _as_told(found, cfg.model, f"--student {cfg.student}")
  if cfg.init:
    return _as_told(network_of(cfg.init)[0], cfg.model, f"--init {cfg.init}")
  return cfg.model


def _as_told(found: Config, model: Config, source: str) -> Config:
  """The network with what `--model` says of dropout and compute.

  UsageError for anything else that `--model` says: the network is another. A value that is the
  default cannot be told from none.
  """
  told = {path: value for path, _, value in config_io.diff(MODEL, model)}
  if type(model) is not type(MODEL):
    told = {"class": type(model).__name__}
  known = {field.name for field in dataclasses.fields(found)}
  free = [name for name in ("dropout", "compute") if name in known]
  for path in told:
    if path.partition(".")[0] not in free:
      raise UsageError(
        f"--model.{path}: the network is that of {source}, of which --model changes "
        f"{' and '.join(free)} alone"
      )
  return config_io.with_values(found, told)


def main(cfg: TransferConfig) -> int:
  """Runs one cell; the exit code."""
  if not cfg.dry_run:  # before weights are read, which would start JAX without the other processes
    join_cluster(cfg.loop.peer_seconds)
  return run(resolved(cfg), "transfer")


if __name__ == "__main__":
  cli.run_main(
    main,
    EXPERIMENTS,
    prog="transfer",
    description="Trains a network on a task of the transfer study; resumes by itself.",
  )
