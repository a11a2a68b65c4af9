"""Every variant of tables II to XI of the DyMN paper: it builds, infers, trains and learns.

A block of each runs in full; the networks are those blocks in a row (test_dymn.py), so of them the
shapes are enough. `make test-slow` runs each complete network too.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.weights.table import flatten
from mobile_jax.config import PLACES, BlockShape, DyMNConfig, MNConfig
from mobile_jax.dymn import DynamicBlock
from mobile_jax.mn import InvertedResidual
from mobile_jax.network import infer, train_outputs
from mobile_jax.norm import BatchNorm
from tests.mobile_jax.fixtures import bce, drawn, quick, shapes_of, worst

RIVALS = ("triplet", "srm", "grn", "se", "cbam", "gc")
VARIANTS = {
  "complete": {},
  # II: components
  "no attention": {"attention": "none"},
  "no dynamic relu": {"relus": ()},
  "no dynamic convolutions": {"convs": ()},
  "dynamic convolutions alone": {"attention": "none", "relus": ()},
  "dynamic relu alone": {"attention": "none", "convs": ()},
  "attention alone": {"relus": (), "convs": ()},
  # IV: positions
  "dynamic convolution 1": {"convs": ("expand",)},
  "dynamic convolution 2": {"convs": ("depthwise",)},
  "dynamic convolution 3": {"convs": ("project",)},
  "dynamic relu 1": {"relus": ("expand",)},
  "dynamic relu 2 and 1": {"relus": ("expand", "depthwise")},
  "dynamic relu 2 and 3": {"relus": ("depthwise", "project")},
  # V: attention in plain blocks
  **{kind: {"attention": kind, "relus": (), "convs": ()} for kind in RIVALS},
  # VI: axes of coordinate attention
  "frequency attention": {"attention_axes": "frequency"},
  "time attention": {"attention_axes": "time"},
  # VII and IX: kernels and pieces
  "two kernels": {"kernels": 2},
  "six kernels": {"kernels": 6},
  "one piece": {"pieces": 1},
  "three pieces": {"pieces": 3},
  # X: context
  "a context per use": {"context": "per_use"},
  "separate sequences": {"sequences": "separate"},
  "concatenated sequences": {"sequences": "concatenated"},
  # XI: its size
  "ratio 8": {"context_ratio": 8},
  "ratio 16": {"context_ratio": 16},
  "at least 16": {"min_context": 16},
  "at least 64": {"min_context": 64},
  "at most 64": {"max_context": 64},
  "at most 256": {"max_context": 256},
  # Several at once, which no table has.
  "mixed": {
    "attention": "triplet",
    "context": "per_use",
    "sequences": "concatenated",
    "pieces": 3,
    "convs": ("depthwise",),
    "relus": ("expand", "project"),
    "kernels": 2,
  },
}
# III: places of the dynamic blocks, and table II's static networks.
NETWORKS = {
  **{kind: DyMNConfig(dynamic=kind) for kind in ("replace_se", "first", "middle", "last", "none")},
  "MN": MNConfig(),
  "MN without squeeze-and-excitation": MNConfig(se="none"),
}
SHAPE = BlockShape(8, 8, 3, 24, 8, False, "hardswish", 1, 1)
TEMPERATURE = 2.0


@pytest.fixture(scope="module")
def x():
  return jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 9, 8)), jnp.float32)


def block_of(changes):
  cfg = DyMNConfig(width=0.5, **changes).with_compute(kernels="xla")
  module = DynamicBlock(SHAPE, cfg)
  template = jax.ShapeDtypeStruct((4, 6, 9, 8), jnp.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), template, TEMPERATURE)
  return module, drawn(shapes, seed=11)


# One of each mechanism; `make test-slow` runs the others.
OFTEN = (*("complete", "triplet", "frequency attention", "mixed"),)


@pytest.mark.parametrize(
  "name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS]
)
def test_a_block_trains_and_infers_the_same(name, x):
  """With the batch's own statistics as running ones, inference gives what training gave.

  That ties the folded, fused form of every variant to its plain one; the gradient reaches every
  parameter.
  """
  module, variables = block_of(VARIANTS[name])
  blank = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
  counts = {}

  def watch(call, args, kwargs, context):
    if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
      counts["/".join(context.module.path)] = args[0].size // context.module.channels
    return call(*args, **kwargs)

  def run(params):
    state = {"params": params, "batch_stats": blank}
    with nn.intercept_methods(watch):
      y, new = module.apply(state, x, TEMPERATURE, True, mutable=["batch_stats"])
    return jnp.sum(jnp.sin(y)), (y, new["batch_stats"])

  (_, (y, new)), gradients = quick(jax.value_and_grad(run, has_aux=True))(variables["params"])
  stats = {}
  for path, value in flatten(new).items():
    norm, kind = path.rsplit("/", 1)
    if kind == "mean":
      stats[path] = value / 0.01
    if kind == "var":
      stats[path] = value / 0.01 * (counts[norm] - 1) / counts[norm]
  with_batch = jax.tree_util.tree_map_with_path(
    lambda path, leaf: stats.get("/".join(p.key for p in path), leaf), new
  )
  state = {"params": variables["params"], "batch_stats": with_batch}
  still = quick(lambda state: module.apply(state, x, TEMPERATURE))(state)
  assert worst(still, np.asarray(y)) <= 1e-4
  # The gates of coordinate attention stay where it is off, unused, as in the released code.
  idle = ("context/frequency", "context/time") if VARIANTS[name].get("attention") == "none" else ()
  for path, gradient in flatten(gradients).items():
    assert np.isfinite(gradient).all(), path
    if any(part in path for part in idle):
      assert not np.any(gradient), path
    else:
      assert np.abs(gradient).max() > 1e-7, path


def test_parts_of_the_variants():
  """Each variant has the parameters that its name says, and no others."""

  def parts(name):
    return set(block_of(VARIANTS[name])[1]["params"])

  whole = {*PLACES, "context", "relu_depthwise"}
  assert parts("complete") == parts("no attention") == whole
  assert parts("no dynamic relu") == whole - {"relu_depthwise"}
  assert parts("dynamic relu 1") == whole - {"relu_depthwise"} | {"relu_expand"}
  assert parts("dynamic relu 2 and 3") == whole | {"relu_project"}
  assert parts("triplet") == {*PLACES, "attention"}
  separate = {"context_relu", "context_conv", "context_attention"}
  assert parts("a context per use") == whole - {"context"} | separate
  # Neither a context for the attention, which makes its own, nor one gate of one axis.
  assert parts("mixed") == {
    *(*PLACES, "attention", "context_relu", "context_conv", "relu_expand", "relu_project")
  }
  params = block_of(VARIANTS["frequency attention"])[1]["params"]
  assert set(params["context"]) == {"joint", "frequency"}
  assert "router" in block_of(VARIANTS["dynamic convolution 2"])[1]["params"]["depthwise"]
  assert "router" not in block_of(VARIANTS["dynamic convolution 2"])[1]["params"]["expand"]
  assert block_of(VARIANTS["six kernels"])[1]["params"]["project"]["kernel"].shape == (6, 24, 8)


def test_a_context_per_use_is_the_shared_one_when_all_are_equal(x):
  module, variables = block_of({})
  other, _ = block_of({"context": "per_use"})
  copied = {}
  for kind, tree in variables.items():
    rest = {k: v for k, v in tree.items() if k != "context"}
    context = dict(tree["context"])
    gates = {k: context.pop(k) for k in ("frequency", "time") if k in context}
    uses = {"relu": context, "conv": context, "attention": {**context, **gates}}
    copied[kind] = {**rest, **{f"context_{use}": value for use, value in uses.items()}}
  one = quick(lambda v: module.apply(v, x, TEMPERATURE))(variables)
  assert worst(quick(lambda v: other.apply(v, x, TEMPERATURE))(copied), np.asarray(one)) <= 1e-5


def test_without_dynamic_parts_a_block_is_a_plain_one(x):
  """With no context either: the same numbers from the same weights."""
  module, variables = block_of({"attention": "srm", "convs": (), "relus": ()})
  plain = {
    kind: {k: v for k, v in tree.items() if k != "attention"} for kind, tree in variables.items()
  }
  open_gate = {
    "weight": jnp.zeros((2, 24)),
    "norm": {"scale": jnp.ones(24), "bias": jnp.full(24, 50.0)},
  }
  variables = {**variables, "params": {**variables["params"], "attention": open_gate}}
  want, _ = InvertedResidual(SHAPE, kernels="xla").apply(plain, x)
  assert worst(module.apply(variables, x, TEMPERATURE), np.asarray(want)) <= 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_tables_ii_and_iii(name):
  """Which blocks of the network are dynamic, and which squeeze."""
  cfg = NETWORKS[name]
  params = shapes_of(cfg)["params"]
  dynamic = {n for n in range(1, 16) if "context" in params[f"block_{n}"]}
  squeeze = {n for n in range(1, 16) if "excite" in params[f"block_{n}"]}
  se = {4, 5, 6, 11, 12, 13, 14, 15}
  wanted = {
    "replace_se": se,
    "first": {*range(1, 6)},
    "middle": {*range(6, 11)},
    "last": {*range(11, 16)},
  }
  assert dynamic == wanted.get(name, set())
  assert squeeze == (se if name == "MN" else set())


COMPLETE = {
  **{name: functools.partial(DyMNConfig, **changes) for name, changes in VARIANTS.items()},
  **{name: functools.partial(DyMNConfig, dynamic=name) for name in ("first", "middle", "last")},
  "MN without squeeze-and-excitation": functools.partial(MNConfig, se="none"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPLETE)
def test_complete_networks_train(name):
  """Finite outputs in both modes, and a finite gradient for every parameter."""
  cfg = COMPLETE[name](width=0.1, classes=4)
  variables = drawn(shapes_of(cfg), seed=3)
  log_mel = jnp.asarray(np.random.default_rng(1).normal(size=(2, 32, 24)), jnp.float32)
  targets = jnp.asarray([[0.0, 1, 0, 1], [1, 0, 1, 0]])
  assert np.isfinite(quick(functools.partial(infer, cfg))(variables, log_mel).logits).all()

  def loss(params):
    state = {**variables, "params": params}
    outputs, stats = train_outputs(cfg, state, log_mel, jax.random.key(0), temperature=5.0)
    return bce(outputs.logits, targets), stats

  (value, stats), gradients = quick(jax.value_and_grad(loss, has_aux=True))(variables["params"])
  for leaf in jax.tree.leaves((value, stats, gradients)):
    assert np.isfinite(leaf).all()
