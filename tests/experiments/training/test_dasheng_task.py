"""The encoder that a training state holds."""

import jax
import jax.numpy as jnp
import pytest

from dasheng_jax.config import SIZES
from dasheng_jax.inference import embed
from dasheng_jax.weights.load import encoder_shapes
from experiments.training.dasheng_task import dasheng_task, encoder_of, for_evaluation
from experiments.training.mesh import MeshConfig, make_mesh
from experiments.training.optim import OptimConfig, make_optimiser
from experiments.training.state import init_state


@pytest.mark.parametrize("scan", [True, False])
def test_the_encoder_is_one_that_files_and_evaluation_know(scan):
  cfg = SIZES["dasheng_micro"].with_compute(scan=scan)
  optimiser = make_optimiser(OptimConfig(warmup_steps=1), 2)
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  encoder = encoder_of(init_state(dasheng_task(cfg), optimiser, mesh, 0))
  shapes = jax.tree.map(lambda x: x.shape, encoder)
  assert shapes == jax.tree.map(lambda x: x.shape, encoder_shapes(cfg))
  assert jnp.isfinite(embed(for_evaluation(cfg), encoder, jnp.zeros((1, 3200)))).all()
