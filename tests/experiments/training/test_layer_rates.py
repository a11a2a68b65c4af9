"""Shares of the learning rate by parameter path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training.epochs import Epochs
from experiments.training.errors import UsageError
from experiments.training.optim import OptimConfig, layer_shares, make_optimiser, parse_layer_rate

PARAMS = {"blocks": {"a": jnp.ones(3), "b": jnp.ones(2)}, "head": {"kernel": jnp.ones((2, 2))}}


def updated(**changes):
  cfg = OptimConfig(schedule="constant", warmup_steps=0, peak_lr=0.1, **changes)
  optimiser = make_optimiser(cfg, 10)
  grads = jax.tree.map(lambda x: 0.5 * x, PARAMS)
  state = optimiser.init(PARAMS, ((r"", ()),))
  direction, _ = optimiser.direction.update(grads, state, PARAMS)
  return jax.tree.map(lambda p, d: p - 0.1 * d, PARAMS, direction)


def test_the_first_rule_that_fits_counts_and_zero_freezes():
  plain = updated()
  found = updated(layer_rates=("blocks/a=0", "^blocks/=0.5"))
  np.testing.assert_array_equal(found["blocks"]["a"], PARAMS["blocks"]["a"])
  step = np.asarray(PARAMS["blocks"]["b"] - plain["blocks"]["b"])
  np.testing.assert_allclose(PARAMS["blocks"]["b"] - found["blocks"]["b"], 0.5 * step, rtol=1e-5)
  np.testing.assert_array_equal(found["head"]["kernel"], plain["head"]["kernel"])
  # A frozen parameter does not decay either.
  frozen = updated(layer_rates=("=0",), weight_decay=0.5)
  assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (frozen, PARAMS)), strict=True))


@pytest.mark.parametrize("rule", ["blocks", "blocks=", "blocks=-1", "blocks=inf", "(=1", "a=x"])
def test_rules_that_are_none(rule):
  with pytest.raises(UsageError, match="write PATTERN=SHARE"):
    OptimConfig(layer_rates=(rule,))


def test_a_rule_that_fits_nothing_is_told():
  assert parse_layer_rate("a=b=0.5")[0].pattern == "a=b"
  with pytest.raises(UsageError, match=r"'tail=0' fits no parameter; paths look like blocks/a"):
    layer_shares(OptimConfig(layer_rates=("tail=0",)), PARAMS)


def test_epochs_begin_where_their_first_clip_falls():
  epochs = Epochs(count=3, clips=10, batch_size=4)
  assert [epochs.start(n) for n in range(4)] == [0, 3, 5, 8]
  assert epochs.steps == 8
  assert [int(epochs.of(step)) for step in range(9)] == [0, 0, 0, 1, 1, 2, 2, 2, 2]
  table = epochs.table(lambda epoch: 10.0**-epoch)
  traced = jax.jit(lambda step: table(step))
  for step in range(9):
    assert float(traced(jnp.int32(step))) == pytest.approx(float(table(step)), rel=1e-6)
  np.testing.assert_allclose(table(np.arange(4)), [1, 1, 1, 0.1])
  with pytest.raises(UsageError, match="--loop.epochs 0"):
    Epochs(0, 10, 4)
