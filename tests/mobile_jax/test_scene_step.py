"""One recorded distillation step of the published student: losses, every gradient, Adam."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import mobile_jax
from dasheng_jax.weights.table import from_torch, to_torch
from experiments.configs.scenes import STUDENT
from experiments.training.optim import apply_direction, make_optimiser
from mobile_jax.losses import class_loss, distilled, soft_class_loss
from mobile_jax.network import shapes, train_outputs
from mobile_jax.weights.names import rules
from tests.mobile_jax.fixtures import quick

pytestmark = pytest.mark.slow  # a step of the trainer is a quick test in test_scene_training.py


@pytest.fixture(scope="module")
def step(scene_fixtures):
  """(configuration, what was recorded, what is found) as PyTorch's names and arrays."""
  recorded = load_file(scene_fixtures / "cpmobile_train_step.safetensors")
  cfg = mobile_jax.MODELS["cp_mobile_dcase23"].config.with_compute(kernels="xla")
  _, variables = mobile_jax.read_model(scene_fixtures / "cpmobile_c0a7nzin.safetensors", config=cfg)
  params, stats = variables["params"], variables["batch_stats"]
  told = STUDENT.distil
  labels = jax.nn.one_hot(jnp.asarray(recorded["labels"].astype(np.int32)), cfg.classes)
  rows = len(labels)

  def loss(params):
    outputs, new = train_outputs(
      cfg, {"params": params, "batch_stats": stats}, jnp.asarray(recorded["mel"][:, 0]), None
    )
    label = class_loss(outputs.logits, labels)
    soft = soft_class_loss(
      outputs.logits,
      jnp.asarray(recorded["teacher_logits"]),
      jnp.ones(rows, bool),
      jnp.ones(rows),
      jnp.arange(rows),
      temperature=told.temperature,
      mean_over=told.mean_over,
    )
    total = jnp.mean(distilled(label, soft, told.label_weight))
    return total, (jnp.mean(label), jnp.mean(soft), outputs.logits, new)

  (total, (label, soft, logits, new)), gradient = quick(jax.value_and_grad(loss, has_aux=True))(
    params
  )
  names = rules(cfg)

  def torch(params, stats):
    return to_torch({"params": params, "batch_stats": stats}, names)

  found = {"loss": total, "label_loss": label, "kd_loss": soft, "logits_train": logits}
  return cfg, recorded, found, torch(gradient, stats), torch(params, new)


def test_losses_and_logits(step):
  _, recorded, found, *_ = step
  for name, value in found.items():
    np.testing.assert_allclose(value, recorded[name].reshape(np.shape(value)), atol=1e-4, rtol=1e-5)


def test_every_gradient(step):
  _, recorded, _, gradients, _ = step
  names = [name for name in recorded if name.startswith("grad/")]
  assert len(names) > 50
  for name in names:
    want = recorded[name]
    got = gradients[name.removeprefix("grad/")].reshape(want.shape)
    assert np.abs(got - want).max() <= 1e-3 * np.abs(want).max() + 1e-6, name


def test_the_step_that_adam_makes(step):
  """From the recorded gradient: the first step divides a gradient by its own size, so noise in one
  that is nearly nothing would be as large as a step.
  """
  cfg, recorded, _, _, before = step

  def tree(state):
    state = {k: x.reshape(np.shape(before[k])) for k, x in state.items()}
    return from_torch({**before, **state}, rules(cfg), shapes(cfg))

  params = tree({})["params"]
  grads = tree({k[5:]: x for k, x in recorded.items() if k.startswith("grad/")})["params"]
  optimiser = make_optimiser(STUDENT.optim, steps=1)

  @quick
  def adam(params, grads):
    direction, _ = optimiser.direction.update(grads, optimiser.direction.init(params), params)
    return apply_direction(params, direction, jnp.float32(STUDENT.optim.peak_lr))

  stepped = adam(params, grads)
  after = to_torch({"params": stepped, "batch_stats": tree({})["batch_stats"]}, rules(cfg))
  kept = [name for name in recorded if name.startswith("after/") and "tracked" not in name]
  assert len(kept) > 20
  for name in kept:
    want = recorded[name]
    got = after[name.removeprefix("after/")].reshape(want.shape)
    # Statistics are of the student's own forward pass.
    atol = 1e-5 if "running" in name else 2e-7
    np.testing.assert_allclose(got, want, atol=atol, rtol=1e-5, err_msg=name)
