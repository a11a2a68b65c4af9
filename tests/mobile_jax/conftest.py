"""Recorded networks, their variables and one training step of each, made once per session."""

import functools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dasheng_jax.weights.table import from_torch
from mobile_jax.network import infer, train_outputs
from mobile_jax.weights import load
from mobile_jax.weights.names import buffers, rules
from tests.mobile_jax.fixtures import (
  PACKED,
  Recorded,
  bce,
  config_of,
  golden,
  packed,
  quick,
  shapes_of,
  traced_once,
)


@pytest.fixture(scope="module", autouse=True)
def _traced_once():
  """Reading weights traces the network, which takes a second for each of hundreds of files."""
  with traced_once(load):
    yield


@pytest.fixture(scope="session")
def recorded(request):
  """recorded(name) -> `Recorded`, from the repository or from the complete fixtures."""

  @functools.cache
  def read(name: str) -> Recorded:
    if name in PACKED:
      return packed(name)
    folder = request.getfixturevalue("mobile_fixtures") / "random"
    arrays = dict(np.load(folder / f"{name}.npz"))
    state = load_file(folder / f"{name}.safetensors")
    return Recorded(config_of(str(arrays["config"])), state, arrays)

  return read


@pytest.fixture(scope="session")
def variables_of(recorded):
  """variables_of(name) -> the recorded weights as our variables."""

  @functools.cache
  def read(name: str) -> dict:
    cfg, state, _ = recorded(name)
    ours = {k: v for k, v in state.items() if k not in buffers(cfg)}
    return jax.tree.map(jnp.asarray, from_torch(ours, rules(cfg), shapes_of(cfg)))

  return read


@pytest.fixture(scope="session")
def inferred(recorded):
  """inferred(name, variables, temperature) -> `Outputs` on plain XLA; one program per network."""

  @functools.cache
  def compiled(name: str):
    cfg = recorded(name).cfg.with_compute(kernels="xla")
    return quick(lambda v, x, t: infer(cfg, v, x, temperature=t))

  def run(name: str, variables: dict, temperature: float | None):
    return compiled(name)(variables, recorded(name).log_mel, temperature)

  return run


class Step(NamedTuple):
  """What a training step computes before the optimiser's turn."""

  loss: jax.Array
  outputs: object
  batch_stats: dict
  gradients: dict


@pytest.fixture(scope="session")
def train_step(recorded):
  """train_step(name, variables) -> `Step`, dropout off, temperature 1; one program per network."""

  @functools.cache
  def compiled(name: str):
    cfg, _, arrays = recorded(name)
    targets = jnp.asarray(arrays["y"])

    def loss(params, batch_stats, log_mel):
      variables = {"params": params, "batch_stats": batch_stats}
      outputs, stats = train_outputs(cfg, variables, log_mel, None, temperature=1.0)
      return bce(outputs.logits, targets), (outputs, stats)

    # Optimised, as users run it. Otherwise forward and backward pass round apart and some maxima of
    # Dy-ReLU pass their gradient to the wrong side: 2e-3 of a norm, where optimised it is 4e-5.
    options = {"xla_backend_optimization_level": 3}
    return jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=options)

  def run(name: str, variables: dict) -> Step:
    step = compiled(name)
    (loss, (outputs, stats)), gradients = step(
      variables["params"], variables["batch_stats"], recorded(name).log_mel
    )
    return Step(loss, outputs, stats, gradients)

  return run


@pytest.fixture(scope="session")
def first_forward(recorded, variables_of):
  """first_forward(name) -> the `Step` from the recorded weights, without gradients, in seconds."""

  def run(name: str) -> Step:
    cfg, _, arrays = recorded(name)
    forward = quick(lambda v, x: train_outputs(cfg, v, x, None, temperature=1.0))
    outputs, stats = forward(variables_of(name), recorded(name).log_mel)
    return Step(bce(outputs.logits, jnp.asarray(arrays["y"])), outputs, stats, {})

  return run


@pytest.fixture(scope="session")
def first_step(train_step, variables_of):
  """first_step(name) -> the `Step` from the recorded weights."""
  return functools.cache(lambda name: train_step(name, variables_of(name)))


class Unit(NamedTuple):
  """One recorded building block: configuration, weights, inputs and outputs by name."""

  cfg: dict
  weights: dict[str, np.ndarray]
  inputs: dict[str, np.ndarray]
  outputs: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def unit(request):
  """unit(name) -> `Unit`, from the repository or from the complete fixtures."""

  @functools.cache
  def arrays(complete: bool) -> dict[str, np.ndarray]:
    if not complete:
      return golden("mobile_units")
    return dict(np.load(request.getfixturevalue("mobile_fixtures") / "units.npz"))

  def read(name: str) -> Unit:
    found = arrays(f"{name}/cfg" not in arrays(False))
    mine = {k.removeprefix(f"{name}/"): v for k, v in found.items() if k.startswith(f"{name}/")}
    group = {
      kind: {k[len(kind) + 1 :]: v for k, v in mine.items() if k.startswith(f"{kind}:")}
      for kind in ("w", "in", "out")
    }
    outputs = {"": mine["out"]} if "out" in mine else group["out"]
    return Unit(json.loads(str(mine["cfg"])), group["w"], group["in"], outputs)

  return read
