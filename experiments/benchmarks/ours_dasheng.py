"""Dasheng as a contender: `python -m experiments.benchmarks.ours_dasheng scan|unrolled|xla`.

Weights are drawn: what a transformer costs does not depend on them. "embed" is inference from waves
to embeddings, "step" the complete training step (mask, forward, backward, AdamW) of the trainer,
fed with the same batch over and over. "xla" is unrolled, without the C++ kernels of a CPU.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dasheng_jax.config import named
from dasheng_jax.inference import embed
from dasheng_jax.mae import init_variables
from experiments.benchmarks.serve import serve
from experiments.benchmarks.stepping import stepping
from experiments.training.dasheng_task import dasheng_task
from experiments.training.mesh import make_mesh
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.state import init_state
from experiments.training.step import compile_train_step

STEPS = 1000  # length of the run that the schedule is told; one step costs the same in any


def prepare(stack: str, case: dict[str, Any]) -> Callable[[], Any]:
  """One call of a case: "embed" or "step" of `case["batch"]` clips of `case["seconds"]`."""
  cfg = named(case["model"])
  options = {"attention": case["attention"]} if "attention" in case else {}
  remat = case.get("remat", "none")
  cfg = cfg.with_compute(dtype=case["dtype"], scan=stack == "scan", remat=remat, **options)
  if stack == "xla":
    cfg = cfg.with_compute(kernels="xla")
  samples = int(case["seconds"] * cfg.mel.sample_rate)
  rng = np.random.default_rng(0)
  wave = jnp.asarray(rng.normal(size=(case["batch"], samples)).astype(np.float32) * 0.1)
  if case["part"] == "embed":
    variables = jax.jit(functools.partial(init_variables, cfg))(jax.random.key(0))
    encoder = {name: tree["encoder"] for name, tree in variables.items()}
    run = jax.jit(functools.partial(embed, cfg))
    return lambda: run(encoder, wave).block_until_ready()
  task, mesh = dasheng_task(cfg), make_mesh(devices=jax.devices()[:1])
  optim = OptimConfig(name=case["optimiser"], warmup_steps=10)
  optimiser = make_optimiser(optim, STEPS, cfg.compute.kernels)
  state = init_state(task, optimiser, mesh, 0)
  step = compile_train_step(task, optimiser, mesh, 0)
  batch = {"wave": wave, "valid": jnp.full((case["batch"],), samples, jnp.int32)}
  return stepping(step, state, batch, mesh)


if __name__ == "__main__":
  serve(functools.partial(prepare, sys.argv[1]))
