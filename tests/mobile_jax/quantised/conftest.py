"""A small CP-Mobile with random weights and statistics, and the recorded quantised student."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax.network import shapes
from mobile_jax.quantised import convert, fold, fresh_ranges, observed_logits
from mobile_jax.scene_config import CPMobileConfig
from tests.mobile_jax.fixtures import drawn, quick

# All kinds of shortcut: identity (block 1), none (2) and pooled (3); both kinds of stride.
SMALL = CPMobileConfig(
  classes=3,
  base_channels=8,
  multiplier=1.4,
  expansion=2.0,
  blocks_per_stage=(1, 1, 1),
  halved=(2,),
  halved_frequency=(3,),
).with_compute(kernels="xla")


@pytest.fixture(scope="package")
def small():
  """(configuration, variables, folded parameters, log-mels of two clips)."""
  variables = drawn(shapes(SMALL), seed=1)
  mel = jnp.asarray(np.random.default_rng(2).normal(0.0, 1.0, (2, 32, 20)), jnp.float32)
  return SMALL, variables, jax.jit(lambda v: fold(SMALL, v))(variables), mel


@pytest.fixture(scope="package")
def step(small):
  """step(folded, ranges, mel, observing) -> ((loss, (logits, ranges)), gradient); one program."""
  cfg = small[0]

  def loss(folded, ranges, mel, observing):
    logits, ranges = observed_logits(cfg, folded, ranges, mel, observing)
    return jnp.sum(logits * jnp.arange(6.0).reshape(2, 3)), (logits, ranges)

  return quick(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="package")
def measured(small, step):
  """(logits of the simulation while it measures, ranges, integers) of the small network."""
  cfg, _, folded, mel = small
  (_, (logits, ranges)), _ = step(folded, fresh_ranges(cfg), mel, True)
  return logits, ranges, quick(lambda p, r: convert(cfg, p, r))(folded, ranges)
