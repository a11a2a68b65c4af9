"""The tiny models that the recorded arrays belong to."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from dasheng_jax.config import DashengConfig, DecoderConfig, EncoderConfig
from dasheng_jax.mae import init_variables
from dasheng_jax.weights.load import encoder_shapes
from dasheng_jax.weights.names import FRONT_END, encoder_rules
from dasheng_jax.weights.table import flatten, from_torch, unflatten
from tests.dasheng_jax.fixtures import golden

# The model of the recorded arrays.
TINY = DashengConfig(encoder=EncoderConfig(48, 3, 4), decoder=DecoderConfig(32, 2, 4))
# Two blocks and short sequences: what tests of behaviour, not of values, compile in a second.
TOY = DashengConfig(
  encoder=EncoderConfig(width=16, depth=2, heads=2, positions=12),
  decoder=DecoderConfig(width=8, depth=2, heads=2),
)


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, np.ndarray]:
  """The tiny encoder under official names, front end included."""
  front_end = golden("frontend")
  arrays = golden("encoder")
  state = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
  state[FRONT_END["window"]] = front_end["window"]
  state[FRONT_END["filters"]] = front_end["mel_fb"]
  return state


@pytest.fixture(scope="session")
def tiny_file(tiny_state, tmp_path_factory):
  """The tiny encoder as a file that names its heads, which no tensor reveals."""
  path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
  save_file(tiny_state, path, metadata={"config": json.dumps({"num_heads": 4})})
  return path


@pytest.fixture(scope="session")
def tiny(tiny_state):
  """(configuration, variables) of the tiny encoder."""
  tree = from_torch(
    tiny_state,
    encoder_rules(TINY),
    encoder_shapes(TINY),
    ignore=[name.replace(".", r"\.") for name in FRONT_END.values()],
  )
  return TINY, jax.tree.map(jnp.asarray, tree)


@pytest.fixture(scope="session")
def toy():
  """(configuration, variables) of the toy autoencoder, no parameter at its initial value."""
  shapes = jax.eval_shape(functools.partial(init_variables, TOY), jax.random.key(0))
  draw = np.random.default_rng(0)
  flat = {}
  for path, leaf in flatten(shapes).items():
    if path.endswith("init_bn/mean"):
      value = draw.normal(-30, 5, leaf.shape)
    elif path.endswith("init_bn/var"):
      value = draw.uniform(100, 200, leaf.shape)
    elif path.endswith("scale"):
      value = draw.normal(1, 0.1, leaf.shape)
    elif "kernel" in path:
      value = draw.normal(0, 0.06 if "patch_embed" in path else 0.25, leaf.shape)
    else:
      value = draw.normal(0, 0.1, leaf.shape)
    flat[path] = jnp.asarray(value, leaf.dtype)
  return TOY, unflatten(flat)


@pytest.fixture(scope="session")
def toy_encoder(toy):
  """(configuration, variables) of the toy's encoder alone."""
  cfg, variables = toy
  return cfg, {name: variables[name]["encoder"] for name in ("params", "batch_stats")}


def with_encoder(cfg: DashengConfig, **changes) -> DashengConfig:
  return dataclasses.replace(cfg, encoder=dataclasses.replace(cfg.encoder, **changes))
