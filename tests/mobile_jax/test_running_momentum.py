"""How far a batch moves the running statistics, and who decides it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax.network import train_outputs
from mobile_jax.norm import BatchNorm, running_momentum
from mobile_jax.scene_config import CPMobileConfig
from tests.mobile_jax.fixtures import quick, shapes_of

X = jax.random.normal(jax.random.key(0), (5, 4, 3)) * 2 + 1


@pytest.mark.parametrize(("told", "share"), [(None, 0.01), (0.25, 0.25), (1.0, 1.0)])
def test_the_share_of_a_batch(told, share):
  norm = BatchNorm(3)
  variables = quick(norm.init)(jax.random.key(0), X)
  with running_momentum(told):
    _, after = quick(lambda v, x: norm.apply(v, x, True, mutable=["batch_stats"]))(variables, X)
  stats = after["batch_stats"]
  np.testing.assert_allclose(stats["mean"], share * X.mean((0, 1)), rtol=1e-5)
  var = X.var((0, 1), ddof=1)
  np.testing.assert_allclose(stats["var"], 1 - share + share * var, rtol=1e-5)


def test_a_training_step_passes_it_on():
  cfg = CPMobileConfig(
    classes=2, base_channels=8, blocks_per_stage=(1, 1, 1), halved=(), halved_frequency=()
  )
  cfg = cfg.with_compute(kernels="xla")
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes_of(cfg))
  log_mel = jax.random.normal(jax.random.key(1), (2, 32, 16))
  step = quick(lambda v, x: [train_outputs(cfg, v, x, None, momentum=m)[1] for m in (None, 1.0)])
  # CP-Mobile's own is 0.1, and statistics that begin at zero show the shares side by side.
  own, all_of_it = step(jax.tree.map(lambda x: x + 1, zeros), log_mel)
  for ours, theirs in zip(jax.tree.leaves(own), jax.tree.leaves(all_of_it), strict=True):
    if ours.dtype == jnp.float32:
      np.testing.assert_allclose(ours, 0.9 + 0.1 * theirs, rtol=1e-4, atol=1e-4)
