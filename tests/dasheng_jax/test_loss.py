"""The loss: three normalisations, constant patches, and what knowing nothing scores."""

import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.loss import masked_mse, normalise_target
from dasheng_jax.patches import patchify, unpatchify
from tests.dasheng_jax.fixtures import golden


def float64_loss(pred, target, hidden, kind: str) -> float:
  pred, target = pred.astype(np.float64), target.astype(np.float64)
  if kind == "patch":
    mean, var = target.mean(-1, keepdims=True), target.var(-1, ddof=1, keepdims=True)
    target = (target - mean) / np.sqrt(var + 1e-6)
  elif kind == "global":
    target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
  return float((((pred - target) ** 2).mean(-1) * hidden).sum() / hidden.sum())


@pytest.fixture(scope="module")
def case():
  draw = np.random.default_rng(0)
  pred = draw.normal(0, 1, (2, 9, 256)).astype(np.float32)
  target = draw.normal(-40, 15, (2, 9, 256)).astype(np.float32)
  return pred, target, draw.random((2, 9)) < 0.75


@pytest.mark.parametrize("kind", ["patch", "global", "none"])
def test_against_double_precision(case, kind):
  pred, target, hidden = case
  ours = masked_mse(
    jnp.asarray(pred), normalise_target(jnp.asarray(target), kind), jnp.asarray(hidden)
  )
  assert ours.dtype == jnp.float32
  assert float(ours) == pytest.approx(float64_loss(pred, target, hidden, kind), rel=1e-6)


def test_constant_patches_meet_the_exact_loss():
  """Two silent patches, one nearly constant, one ordinary: released float32 is 3e-4 off."""
  arrays = golden("mae")
  target = normalise_target(jnp.asarray(arrays["flat_target"]), "patch")
  np.testing.assert_array_equal(target[0, :2], 0.0)
  hidden = jnp.asarray(arrays["flat_mask"] == 1)
  ours = float(masked_mse(jnp.asarray(arrays["flat_pred"]), target, hidden))
  assert ours == pytest.approx(float(arrays["flat_loss_f64"]), rel=1e-6)
  assert ours == pytest.approx(float(arrays["flat_loss"]), rel=5e-4)
  assert abs(float(arrays["flat_loss"]) / float(arrays["flat_loss_f64"]) - 1) > 2e-4


def test_knowing_nothing_scores_one(case):
  _, target, hidden = case
  zero = jnp.zeros_like(jnp.asarray(target))
  loss = masked_mse(zero, normalise_target(jnp.asarray(target), "patch"), jnp.asarray(hidden))
  assert float(loss) == pytest.approx(255 / 256, rel=1e-5)


def test_visible_patches_do_not_count(case):
  pred, target, hidden = map(jnp.asarray, case)
  changed = jnp.where(hidden[:, :, None], pred, 1e3)
  assert masked_mse(changed, target, hidden) == masked_mse(pred, target, hidden)


def test_nothing_hidden_is_zero_not_nan(case):
  pred, target, hidden = map(jnp.asarray, case)
  assert masked_mse(pred, target, jnp.zeros_like(hidden)) == 0


def test_half_precision_predictions_are_summed_in_float32(case):
  pred, target, hidden = map(jnp.asarray, case)
  loss = masked_mse(pred.astype(jnp.bfloat16), target, hidden)
  assert loss.dtype == jnp.float32


def test_patches_are_mel_major_and_come_back():
  log_mel = jnp.arange(2 * 64 * 11, dtype=jnp.float32).reshape(2, 64, 11)
  patches = patchify(log_mel, 4)
  assert patches.shape == (2, 2, 256)
  assert patches[1, 1, 5 * 4 + 3] == log_mel[1, 5, 4 + 3]
  np.testing.assert_array_equal(unpatchify(patches, 4), log_mel[:, :, :8])


def test_patches_that_do_not_count_move_no_global_target():
  target = np.random.default_rng(0).normal(size=(3, 4, 8)).astype(np.float32)
  counted = np.array([[True] * 4, [True, True, False, False], [False] * 4])
  first = np.asarray(normalise_target(jnp.asarray(target), "global", jnp.asarray(counted)))
  target[~counted] += 50.0
  second = np.asarray(normalise_target(jnp.asarray(target), "global", jnp.asarray(counted)))
  np.testing.assert_allclose(second[counted], first[counted], atol=1e-5)
  np.testing.assert_allclose(first[counted].std(ddof=1), 1.0, atol=1e-5)
  every = normalise_target(jnp.asarray(target), "global", jnp.ones((3, 4), bool))
  np.testing.assert_allclose(every, normalise_target(jnp.asarray(target), "global"), atol=1e-5)


@pytest.mark.parametrize("kind", ["patch", "global"])
def test_where_no_patch_counts_targets_stay_finite(case, kind):
  target = jnp.asarray(case[1])
  none = jnp.zeros(target.shape[:2], bool)
  assert jnp.isfinite(normalise_target(target, kind, none)).all()
