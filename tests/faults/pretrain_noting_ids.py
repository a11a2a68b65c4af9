"""`experiments.pretrain`, which notes the ids of its batches in WORKDIR/ids.PROCESS.PID.jsonl.

NAN_GRADIENT_AT=5,6 makes the gradient of these batches (counted from 0) NaN, under a finite loss.
"""

import dataclasses
import json
import os
import pathlib
import sys

import jax
import jax.numpy as jnp

from experiments import pretrain
from experiments.configs.pretrain import EXPERIMENTS
from experiments.training import cli

BROKEN = {int(step) for step in os.environ.get("NAN_GRADIENT_AT", "").split(",") if step}
MARK = 0.987654321  # the first sample of a batch to be broken


@jax.custom_vjp
def trap(params, broken):
  """Zero, with a gradient that is NaN where `broken`."""
  return jnp.zeros(())


def _trap_backward(saved, cotangent):
  params, broken = saved
  poison = jnp.where(broken, jnp.nan, 0.0) * cotangent
  return jax.tree.map(lambda p: jnp.full_like(p, poison), params), None


trap.defvjp(lambda params, broken: (jnp.zeros(()), (params, broken)), _trap_backward)


def with_trap(task):
  """The task with the trap in its loss."""

  def loss(params, model_state, batch, key, train):
    value, rest = task.loss(params, model_state, batch, key, train)
    return value + trap(params, batch["wave"][0, 0] == jnp.float32(MARK)), rest

  return dataclasses.replace(task, loss=loss)


class Noting:
  """An iterator of batches that writes down their ids."""

  def __init__(self, inner, step, path):
    self.inner, self.step, self.path = inner, step, path

  def __getattr__(self, name):
    return getattr(self.inner, name)

  def __enter__(self):
    self.inner.__enter__()
    return self

  def __exit__(self, *exception):
    return self.inner.__exit__(*exception)

  def __next__(self):
    batch = next(self.inner)
    if self.step in BROKEN:
      batch = {**batch, "wave": batch["wave"].copy()}
      batch["wave"][0, 0] = MARK
    with self.path.open("a") as file:
      file.write(json.dumps([self.step, [str(i) for i in batch["id"]]]) + "\n")
    self.step += 1
    return batch


def main():
  folder = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
  batches = pretrain.batches
  path = folder / f"ids.{os.environ.get('JAX_PROCESS_ID', '0')}.{os.getpid()}.jsonl"
  if BROKEN:
    dasheng_task = pretrain.dasheng_task
    pretrain.dasheng_task = lambda cfg: with_trap(dasheng_task(cfg))
  pretrain.batches = lambda *a, **how: Noting(batches(*a, **how), how["start_step"], path)
  cli.run_main(pretrain.main, EXPERIMENTS, prog="pretrain")


if __name__ == "__main__":
  main()
