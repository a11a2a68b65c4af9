r"""Fine-tunes CP-Mobile for eight bits and converts it to integers.

    python -m experiments.quantise --config tau22_student --init cp_mobile_dcase23 \
      --data.source tau22=FOLDER --augment.responses MICS --teacher LOGITS --workdir runs/int8

Batch norm is folded into the convolutions, quantisation is simulated, its ranges follow the batches
until the last epochs, and every validation scores the simulation and the integers that it converts
to. A run that is found in the folder goes on. At the end the folder holds the integers
(export/int8.safetensors) and what they cost and reach beside the float network and beside plain
calibration (report.json, report.md). Without `--teacher` it learns from labels alone.
"""

from __future__ import annotations

from experiments.configs.quantise import EXPERIMENTS, QuantiseConfig
from experiments.supervised.prepare import Method
from experiments.supervised.quantised_report import report_quantised, validation_scores
from experiments.supervised.quantised_task import folded_start, quantised_task
from experiments.supervised.run import run
from experiments.training import cli
from experiments.training.errors import UsageError
from mobile_jax.families import Config
from mobile_jax.scene_config import CPMobileConfig


def method_of(cfg: QuantiseConfig) -> Method:
  """How a run of this configuration differs from one that trains the network itself."""

  def task(model: Config, recipe):
    assert isinstance(model, CPMobileConfig)
    return quantised_task(model, recipe, cfg.frozen_epochs)

  return Method(task, folded_start, validation_scores, report_quantised, forms=2)


def main(cfg: QuantiseConfig) -> int:
  """Runs one configuration; the exit code."""
  if not isinstance(cfg.model, CPMobileConfig):
    raise UsageError("--model.class: quantisation is of CP-Mobile alone; leave it CPMobileConfig")
  if not cfg.init:
    raise UsageError(
      "--init: name the float CP-Mobile that is to be quantised, a file or a name such as "
      "cp_mobile_dcase23"
    )
  if cfg.norm_momentum is not None:
    raise UsageError("--norm_momentum: no norm is left once they are folded; leave it out")
  if cfg.model.compute.dtype != "float32":
    raise UsageError(
      f"--model.compute.dtype {cfg.model.compute.dtype}: quantisation is simulated in float32"
    )
  return run(cfg, "quantise", method_of(cfg))


if __name__ == "__main__":
  cli.run_main(
    main,
    EXPERIMENTS,
    prog="quantise",
    description="Fine-tunes CP-Mobile for eight bits and converts it; resumes by itself.",
  )
