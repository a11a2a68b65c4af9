"""The recorded networks and blocks: a small share in the repository, all of them beside it.

Weights are random, names are those of the PyTorch code; see shared/fixtures/mobile/README.md.
"""

import contextlib
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.errors import ConfigError
from mobile_jax import config
from mobile_jax.config import DyMNConfig, MNConfig
from mobile_jax.inference import least_samples, log_mel
from mobile_jax.network import Config, infer, shapes
from tests.dasheng_jax.fixtures import worst as worst

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
# Recorded networks that the repository holds, with their weights and their steps of training.
PACKED = {"mn01_c_mlp": "mobile_mn01", "dymn01_all": "mobile_dymn01"}
MN_NAMES = (
  *("mn01_c_mlp", "mn01_f_mlp", "mn01_cf_max_mlp", "mn01_cft_avg_mlp", "mn01_none_mlp"),
  *("mn01_c_fc", "mn01_c_fc_s2211", "mn01_c_fc_s2221_dil", "mn01_c_mha4"),
)
DYMN_NAMES = (
  *("dymn01_all", "dymn01_replace_se", "dymn01_M3_K2_r8"),
  *("dymn01_no_ca", "dymn01_no_dyrelu_no_dyconv"),
)
# Compiling is what these tests spend their time on; tiny inputs do not repay optimised code.
QUICK = {"xla_backend_optimization_level": 0}


def quick(function: Callable, **options) -> Callable:
  """`jax.jit` that compiles fast and without optimisation."""
  return jax.jit(function, compiler_options=QUICK, **options)


class Recorded(NamedTuple):
  """One recorded network: state under PyTorch's names, and what the original computed."""

  cfg: Config
  state: dict[str, np.ndarray]
  arrays: dict[str, np.ndarray]

  @property
  def log_mel(self) -> jax.Array:
    """f32[b, f, frames]."""
    return jnp.asarray(self.arrays["x"][:, 0], jnp.float32)

  @property
  def prefixes(self) -> dict[str, float | None]:
    """Prefix of the arrays of each recorded inference -> temperature."""
    if isinstance(self.cfg, MNConfig):
      return {"": None}
    heads = {name.split("/")[0] for name in self.arrays if name.startswith("T")}
    return {f"{head}/": float(head[1:]) for head in sorted(heads)}


def golden(name: str) -> dict[str, np.ndarray]:
  """Arrays of tests/golden/NAME.npz; see make_golden.py for what they are."""
  with np.load(GOLDEN / f"{name}.npz") as arrays:
    return dict(arrays)


def packed(name: str) -> Recorded:
  """A recorded network of the repository."""
  arrays = golden(PACKED[name])
  state = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
  rest = {k: v for k, v in arrays.items() if not k.startswith("weights/")}
  return Recorded(config_of(str(arrays["config"])), state, rest)


def config_of(text: str) -> Config:
  """Our configuration from the recorded constructor arguments."""
  told = json.loads(text)
  common = {
    "classes": told["num_classes"],
    "width": told["width_mult"],
    "strides": tuple(told.get("strides", (2, 2, 2, 2))),
  }
  if told["model"] == "mn":
    head = told.get("head_type", "mlp")
    return MNConfig(
      **common,
      head="attention" if head == "multihead_attention_pooling" else head,
      attention_heads=told.get("multihead_attention_heads", 4),
      reduced_tail=told.get("reduced_tail", False),
      dilated=told.get("dilated", False),
      se=told.get("se_dims", "c"),
      se_aggregate=told.get("se_agg", "max"),
      se_reduction=told.get("se_r", 4),
      frames=told.get("input_dim_t", 1000),
    )
  return DyMNConfig(
    **common,
    dynamic=told.get("use_dy_blocks", "all"),
    convs=() if told.get("no_dyconv") else ("expand", "depthwise", "project"),
    relus=() if told.get("no_dyrelu") else ("depthwise",),
    attention="none" if told.get("no_ca") else "coordinate",
    kernels=told.get("dyconv_k", 4),
    pieces=told.get("dyrelu_k", 2),
    context_ratio=told.get("context_ratio", 4),
    min_context=told.get("min_context_size", 32),
    max_context=told.get("max_context_size", 128),
  )


def shapes_of(cfg: Config) -> dict:
  """`network.shapes`, which traces a whole network, once per configuration."""
  return _traced(cfg, config._TABLE)  # some tests shorten the table of blocks


@functools.cache
def _traced(cfg: Config, table: tuple) -> dict:
  return shapes(cfg)


@contextlib.contextmanager
def traced_once(*modules: ModuleType):
  """Within it, these modules, which read weights, share the traces of `shapes_of`."""

  def remembered(cfg: Config) -> dict:
    return jax.tree.map(lambda leaf: leaf, shapes_of(cfg))  # dictionaries of the caller's own

  with pytest.MonkeyPatch.context() as patch:
    for module in modules:
      patch.setattr(module, "shapes", remembered)
    yield


def drawn(tree: Mapping, seed: int = 0) -> dict:
  """Random values in the shapes of a tree: variances positive, scales around 1, counts 0."""
  rng = np.random.default_rng(seed)

  def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    name = path[-1].key
    if name == "count":
      return jnp.zeros(leaf.shape, leaf.dtype)
    if name == "var":
      return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
    spread = 1 / np.sqrt(max(2, leaf.shape[-2])) if name == "kernel" else 0.3
    centre = 1.0 if name == "scale" else 0.0
    return jnp.asarray(rng.normal(centre, spread, leaf.shape), leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, tree)


def nhwc(x: np.ndarray) -> jax.Array:
  """[b, c, f, t] as recorded -> [b, f, t, c]."""
  return jnp.asarray(x.transpose(0, 2, 3, 1))


def stage_errors(stages, arrays: Mapping, prefix: str = "") -> list[float]:
  """Of each of the 17 maps: the worst of its recorded moments and of its recorded corner.

  In units of the map's deviation where that is more than 1: rounding grows with it, and the random
  networks amplify (the original's own float32 and float64 are up to 5e-5 apart in the logits).
  """
  assert len(stages) == 17
  errors = []
  for i, stage in enumerate(stages):
    ours = np.asarray(stage, np.float64).transpose(0, 3, 1, 2)
    assert ours.shape == tuple(arrays[prefix + "stage_shape"][i]), i
    moments = {"mean": ours.mean(), "std": ours.std(), "absmax": np.abs(ours).max()}
    apart = [abs(arrays[f"{prefix}stage_{k}"][i] - value) for k, value in moments.items()]
    corner = arrays[prefix + "stage_slice"][i]
    error = max(*apart, worst(ours[-1, :4, :4, :4], corner))
    errors.append(error / max(1.0, float(arrays[prefix + "stage_std"][i])))
  return errors


def bce(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Mean binary cross entropy, as the recorded steps used it."""
  return jnp.mean(jnp.logaddexp(0.0, logits) - logits * targets)


def check_shortest_clip(cfg):
  """One sample less is refused; the shortest leaves a map to take the mean of."""
  least = least_samples(cfg)
  variables = shapes_of(cfg)

  def maps(samples):
    wave = jax.ShapeDtypeStruct((1, samples), jnp.float32)
    return jax.eval_shape(lambda v, w: infer(cfg, v, log_mel(cfg, w)).stages, variables, wave)

  assert all(stage.size for stage in maps(least))
  with pytest.raises(ConfigError, match="too short"):
    maps(least - 1)
