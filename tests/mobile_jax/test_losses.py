"""The losses of training, against values of the released code and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobile_jax.losses import class_loss, distilled, soft_tag_loss, tag_loss
from tests.mobile_jax.fixtures import golden

NOISE = 2e-6  # float32, relative, of means over a few dozen terms


@pytest.fixture(scope="module")
def recorded():
  return {k: jnp.asarray(v) for k, v in golden("mobile_training").items() if v.dtype != np.float64}


@pytest.fixture(scope="module")
def batch(recorded):
  """(logits, teacher's logits, known, share, partner), as the recording mixed them."""
  kd = {name: recorded[f"kd/{name}"] for name in ("logits", "teacher_logits", "lam", "perm")}
  known = ~recorded["kd/unknown"]
  return kd["logits"], kd["teacher_logits"], known, kd["lam"], kd["perm"].astype(jnp.int32)


def mixed(x, share, partner):
  return share[:, None] * x + (1 - share[:, None]) * x[partner]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_is_the_recorded_one(recorded, batch, temperature):
  logits, _, _, share, partner = batch
  label = tag_loss(logits, mixed(recorded["kd/labels"], share, partner))
  soft = soft_tag_loss(*batch, temperature=temperature, unknown_partner="as_given")
  name = f"kd/T{temperature:g}"
  np.testing.assert_allclose(label.mean(), recorded[f"{name}_label"], rtol=NOISE)
  np.testing.assert_allclose(soft.mean(), recorded[f"{name}_soft"], rtol=NOISE)
  total = distilled(label, soft, 0.1).mean()
  np.testing.assert_allclose(total, recorded[f"{name}_total_lambda0.1"], rtol=NOISE)
  assert (distilled(label, soft, 0.0) == label).all()


def test_what_the_teacher_does_not_know_is_dropped(batch):
  """With the partners of unknown clips, whatever their rows hold; nothing reaches the gradient."""
  logits, teacher, known, share, partner = batch
  hostile = jnp.where(known[:, None], teacher, jnp.nan)
  soft = soft_tag_loss(logits, hostile, known, share, partner)
  released = soft_tag_loss(*batch, unknown_partner="as_given")
  dropped = ~known | ~known[partner]
  assert dropped.sum() == 2
  np.testing.assert_array_equal(np.asarray(soft) == 0, dropped)
  np.testing.assert_array_equal(soft[~dropped], released[~dropped])
  slope = jax.grad(lambda x: soft_tag_loss(x, hostile, known, share, partner).sum())(logits)
  assert np.isfinite(slope).all()
  alone = soft_tag_loss(logits, hostile, known, jnp.ones(6), partner)
  np.testing.assert_array_equal(np.asarray(alone) == 0, ~known)


def test_classes_that_nobody_judged_count_as_nothing(recorded, batch):
  logits, _, _, share, partner = batch
  targets = (recorded["openmic/y_prob"] > 0.5).astype(jnp.float32)
  mask = recorded["openmic/mask"]
  np.testing.assert_allclose(
    tag_loss(logits, targets, mask).mean(), recorded["openmic/loss_plain"], rtol=NOISE
  )
  both = tag_loss(logits, mixed(targets, share, partner), mask).mean()
  np.testing.assert_allclose(both, recorded["openmic/loss_mixup"], rtol=NOISE)


def test_cross_entropy_against_mixed_labels(recorded, batch):
  logits, _, _, share, partner = batch
  values = class_loss(logits, mixed(recorded["esc50/onehot"], share, partner))
  np.testing.assert_allclose(values.mean(), recorded["esc50/loss_mixup"], rtol=NOISE)


def test_sure_logits_do_not_overflow():
  logits = jnp.asarray([[1e4, -1e4, 0.0]])
  assert tag_loss(logits, jnp.asarray([[1.0, 0.0, 0.5]]))[0] == pytest.approx(np.log(2) / 3)
  assert tag_loss(logits, jnp.asarray([[0.0, 1.0, 0.5]]))[0] == pytest.approx(2e4 / 3, rel=1e-4)


def test_weights_that_are_none_are_refused():
  with pytest.raises(ValueError, match="label_weight is 1.5; it must be from 0"):
    distilled(jnp.ones(2), jnp.ones(2), 1.5)
