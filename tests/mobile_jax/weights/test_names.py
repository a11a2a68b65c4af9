"""Name tables: every configuration's variables under PyTorch's names (section 6), both ways."""

import numpy as np
import pytest

from dasheng_jax.errors import ConfigError
from dasheng_jax.weights.table import flatten, from_torch, to_torch
from mobile_jax.config import SIZES, DyMNConfig, MNConfig
from mobile_jax.dynamic import relu_constants
from mobile_jax.weights.names import buffers, rules
from tests.mobile_jax.fixtures import shapes_of

CONFIGS = {
  "mn": MNConfig(width=0.2),
  "three axes": MNConfig(width=0.1, se="tcf", frames=100),
  "no se": MNConfig(width=0.1, se="none"),
  "reduced": MNConfig(width=0.2, reduced_tail=True, dilated=True, head="fully_convolutional"),
  "attention": MNConfig(width=0.1, head="attention", attention_heads=3, classes=4),
  "dymn": DyMNConfig(width=0.2, kernels=3, pieces=3),
  "replace_se": DyMNConfig(width=0.2, dynamic="replace_se", relus=()),
  "static": DyMNConfig(width=0.1, convs=(), relus=(), attention="none"),
}


# Of these the recorded networks, and the larger tables of others here, hold every line.
SLOW = ("mn", "no se", "replace_se")


@pytest.mark.parametrize(
  "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CONFIGS]
)
def test_ours_to_torch_and_back(name):
  """With another value in every place, so that no two can be mixed up."""
  cfg, start, tree = CONFIGS[name], 0, {}
  for path, leaf in flatten(shapes_of(cfg)).items():
    size = int(np.prod(leaf.shape))
    tree[path] = np.arange(start, start + size).reshape(leaf.shape).astype(leaf.dtype)
    start += size
  state = to_torch(tree, rules(cfg))
  assert len(state) == len(tree)
  assert all(value.flags.c_contiguous for value in state.values())
  back = flatten(from_torch(state, rules(cfg), tree))
  for path, value in tree.items():
    assert back[path].dtype == value.dtype
    np.testing.assert_array_equal(back[path], value, err_msg=path)


@pytest.mark.parametrize(
  ("size", "entries", "elements"), [("mn10", 312, 4_901_277), ("dymn10", 578, 10_575_124)]
)
def test_entries_of_the_published_state_dicts(size, entries, elements):
  cfg = SIZES[size]
  names = [rule.torch for rule in rules(cfg)] + list(buffers(cfg))
  assert len(set(names)) == len(names) == entries
  ours = sum(int(np.prod(x.shape)) for x in flatten(shapes_of(cfg)).values())
  assert ours + sum(x.size for x in buffers(cfg).values()) == elements


def test_names_of_an_mn():
  by_ours = {rule.ours: rule.torch for rule in rules(MNConfig())}
  wanted = {
    "params/stem/kernel": "features.0.0.weight",
    "batch_stats/stem/norm/var": "features.0.1.running_var",
    # The first block does not expand, so its places are one lower.
    "params/block_1/depthwise/kernel": "features.1.block.0.0.weight",
    "params/block_1/project/norm/scale": "features.1.block.1.1.weight",
    "params/block_2/project/kernel": "features.2.block.2.0.weight",
    "params/block_4/excite/se_c/down/kernel": "features.4.block.2.conc_se_layers.0.fc1.weight",
    "params/block_4/project/kernel": "features.4.block.3.0.weight",
    "params/last/kernel": "features.16.0.weight",
    "params/head/hidden/bias": "classifier.2.bias",
    "params/head/logits/kernel": "classifier.5.weight",
  }
  assert {ours: by_ours[ours] for ours in wanted} == wanted
  several = {rule.ours: rule.torch for rule in rules(MNConfig(se="ft"))}
  assert several["params/block_4/excite/se_t/up/bias"].endswith("conc_se_layers.1.fc2.bias")


def test_names_of_a_dymn():
  cfg = DyMNConfig()
  by_ours = {rule.ours: rule.torch for rule in rules(cfg)}
  wanted = {
    "params/stem/kernel": "in_c.0.weight",
    "params/last/norm/bias": "out_c.1.bias",
    "params/block_2/expand/kernel": "layers.1.exp_conv.weight",
    "params/block_2/depthwise/router/kernel": "layers.1.depth_conv.residuals.0.weight",
    "params/block_2/relu_depthwise/coefficients/bias": "layers.1.depth_act.coef_net.0.bias",
    "params/block_2/context/joint/kernel": "layers.1.context_gen.joint_conv.weight",
    "batch_stats/block_2/context/joint/norm/mean": "layers.1.context_gen.joint_norm.running_mean",
    "params/block_15/context/time/bias": "layers.14.context_gen.conv_t.bias",
  }
  assert {ours: by_ours[ours] for ours in wanted} == wanted
  assert not any(name.startswith("layers.0.exp") for name in by_ours.values())
  named = buffers(cfg)
  assert len(named) == 30
  np.testing.assert_array_equal(named["layers.14.depth_act.lambdas"], relu_constants(2)[0])
  static = {rule.torch for rule in rules(DyMNConfig(convs=(), relus=()))}
  assert "layers.1.exp_conv.module.weight" in static
  assert buffers(DyMNConfig(relus=())) == buffers(MNConfig()) == {}


@pytest.mark.parametrize(
  "changes",
  [
    {"dynamic": "first"},
    {"convs": ("depthwise",)},
    {"relus": ("expand",)},
    {"attention": "srm"},
    {"attention_axes": "time"},
    {"context": "per_use"},
    {"sequences": "separate"},
  ],
)
def test_variants_without_names_are_told_apart(changes):
  with pytest.raises(ConfigError, match="ablations that the released code lacks") as caught:
    rules(DyMNConfig(**changes))
  assert "\n" not in str(caught.value)
