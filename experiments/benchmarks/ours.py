"""The library as a contender: `python -m experiments.benchmarks.ours auto|xla WEIGHTS`.

"auto" takes the C++ kernels where there is a compiler, "xla" leaves them out. WEIGHTS is a folder
that may hold state dicts of the originals, so that both time the same network; without one the
weights are drawn.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.serve import serve
from experiments.benchmarks.stepping import stepping
from experiments.configs.finetune import adam
from experiments.supervised.recipe import NO_AUGMENT, TemperatureConfig
from experiments.supervised.task import Recipe, supervised_task
from experiments.training.epochs import Epochs
from experiments.training.mesh import batch_sharding, make_mesh
from experiments.training.optim import make_optimiser
from experiments.training.state import begin_with, init_state
from experiments.training.step import compile_train_step
from mobile_jax.families import ALL_SIZES
from mobile_jax.inference import tag
from mobile_jax.losses import class_loss, tag_loss
from mobile_jax.network import Config, Variables, infer, init_variables, train_outputs
from mobile_jax.weights.load import read_model
from pipelines.kaldi_mel import KALDI_MEL, KaldiMelConfig, log_mel_32k

STEPS = 1000  # of the run that the schedule is told; one costs the same in any


def network(name: str, kernels: str, weights: pathlib.Path) -> tuple[Config, Variables]:
  """Configuration and variables of a size by name."""
  file = weights / f"{name}.pt"
  if file.exists():
    cfg, variables = read_model(file, name=name)
  else:
    cfg = ALL_SIZES[name]
    variables = jax.jit(functools.partial(init_variables, cfg))(jax.random.key(0))
  return cfg.with_compute(kernels=kernels), variables


def prepare(kernels: str, weights: pathlib.Path, case: dict[str, Any]) -> Callable[[], Any]:
  """One call of a case: "network", "mel", "tag" (both), "train" (forward and backward) or "step"
  (from waves to the updated weights, by the trainer's own step).
  """
  batch, part = case["batch"], case["part"]
  rng = np.random.default_rng(0)
  wave = jnp.asarray(rng.normal(size=(batch, case["samples"])).astype(np.float32) * 0.1)
  mel = jnp.asarray(rng.normal(size=(batch, *case["log_mel"])).astype(np.float32))
  if part == "mel":
    told = ALL_SIZES[case["model"]].mel if case["model"] else KALDI_MEL
    assert isinstance(told, KaldiMelConfig)
    front_end = jax.jit(functools.partial(log_mel_32k, cfg=told))
    return lambda: front_end(wave).block_until_ready()
  cfg, variables = network(case["model"], kernels, weights)
  if part == "train":
    labels = jnp.asarray(targets(rng, batch, cfg))
    if labels.ndim == 1:
      labels = jax.nn.one_hot(labels, cfg.classes)
    step = jax.jit(functools.partial(gradients, cfg))
    return lambda: jax.block_until_ready(step(variables, mel, labels, jax.random.key(0)))
  if part == "step":
    return training_step(cfg, variables, wave, rng)
  if part == "tag":
    run = jax.jit(functools.partial(tag, cfg))
    return lambda: jax.block_until_ready(run(variables, wave))
  logits = jax.jit(lambda v, x: infer(cfg, v, x).logits)
  return lambda: logits(variables, mel).block_until_ready()


def training_step(
  cfg: Config, variables: Variables, wave: jax.Array, rng: np.random.Generator
) -> Callable[[], None]:
  """The step of a recipe without mixup: perturbed front end, loss, gradient, Adam."""
  rows = wave.shape[0]
  augment = dataclasses.replace(NO_AUGMENT, perturb=True)
  epochs = Epochs(STEPS, rows, rows)
  task = supervised_task(cfg, Recipe(cfg.objective, augment, None, TemperatureConfig(), epochs))
  optimiser = make_optimiser(adam(1e-4), STEPS, cfg.compute.kernels)
  mesh = make_mesh(devices=jax.devices()[:1])
  state = begin_with(
    init_state(task, optimiser, mesh, 0),
    {"params": variables["params"], "model_state": {"batch_stats": variables["batch_stats"]}},
  )
  step = compile_train_step(task, optimiser, mesh, 0)
  labels = targets(rng, rows, cfg)
  batch = jax.device_put({"wave": wave, "labels": labels}, batch_sharding(mesh))
  return stepping(step, state, batch, mesh)


def targets(rng: np.random.Generator, rows: int, cfg: Config) -> np.ndarray:
  """Rare tags f32[rows, classes], as in AudioSet, or the class of each clip i32[rows]."""
  if cfg.objective == "classes":
    return rng.integers(cfg.classes, size=rows).astype(np.int32)
  return (rng.random(size=(rows, cfg.classes)) < 0.01).astype(np.float32)


def gradients(
  cfg: Config, variables: Variables, mel: jax.Array, labels: jax.Array, key: jax.Array
) -> tuple[jax.Array, Any]:
  """Loss, new statistics and gradients of all parameters."""

  def loss(params: Variables) -> tuple[jax.Array, Variables]:
    both = {"params": params, "batch_stats": variables["batch_stats"]}
    outputs, statistics = train_outputs(cfg, both, mel, key)
    rows = class_loss if cfg.objective == "classes" else tag_loss
    return jnp.mean(rows(outputs.logits, labels)), statistics

  return jax.value_and_grad(loss, has_aux=True)(variables["params"])


if __name__ == "__main__":
  serve(functools.partial(prepare, sys.argv[1], pathlib.Path(sys.argv[2])))
