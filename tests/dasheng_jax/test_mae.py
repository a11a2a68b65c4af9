"""The masked autoencoder: its pure functions, and the released one's losses and gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dasheng_jax.encoder import Encoder
from dasheng_jax.errors import ConfigError
from dasheng_jax.loss import masked_mse, normalise_target
from dasheng_jax.mae import (
  MaskedAutoencoder,
  check_crop,
  init_variables,
  pretrain_loss,
  reconstruct,
  reconstruction_db,
)
from dasheng_jax.masking import mask_from_noise, random_mask
from dasheng_jax.patches import patchify
from dasheng_jax.weights.names import autoencoder_rules
from dasheng_jax.weights.table import from_torch, to_torch
from tests.dasheng_jax.conftest import TINY
from tests.dasheng_jax.fixtures import from_int16, worst

PATCHES = 12


# --- recorded: a batch of 10 s, one row of it somebody's recording, so only beside the repository


@pytest.fixture(scope="module")
def recorded(dasheng_fixtures):
  return dict(np.load(dasheng_fixtures / "mae.npz"))


@pytest.fixture(scope="module")
def complete_state(dasheng_fixtures):
  state = {}
  for half in ("encoder", "decoder"):
    content = load_file(dasheng_fixtures / f"tiny_{half}.safetensors")
    state.update({f"{half}.{name}": value for name, value in content.items()})
  return state


@pytest.fixture(scope="module")
def variables(complete_state):
  shapes = jax.eval_shape(functools.partial(init_variables, TINY), jax.random.key(0))
  rules = autoencoder_rules(TINY)
  tree = from_torch(complete_state, rules, shapes, ignore=[r"encoder\.front_end\..*"])
  return jax.tree.map(jnp.asarray, tree)


@pytest.fixture(scope="module")
def masking(recorded):
  return mask_from_noise(jnp.asarray(recorded["noise"]), 250, TINY.mask_ratio, TINY.mask_group)


@pytest.fixture(scope="module")
def step(recorded, variables, masking):
  """f(bn_gradient) -> (loss, prediction, statistics, gradients by official name)."""

  @functools.cache
  def run(kind):
    cfg = dataclasses.replace(TINY, bn_gradient=kind)

    def loss(params, log_mel):
      state = {**variables, "params": params}
      pred, target, stats = reconstruct(cfg, state, log_mel, masking, True)
      return masked_mse(pred, target, masking.hidden), (pred, stats)

    value = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (loss, (pred, stats)), grads = value(variables["params"], jnp.asarray(recorded["logmel"]))
    tree = {"params": grads, "batch_stats": variables["batch_stats"]}
    named = to_torch(tree, autoencoder_rules(TINY))
    named = {k: v for k, v in named.items() if "running" not in k and "num_batches" not in k}
    return float(loss), pred, stats, named

  return run


def test_recorded_loss_and_prediction(step, recorded, masking):
  loss, pred, _, _ = step("torch_cpu")
  assert loss == pytest.approx(float(recorded["loss"]), rel=1e-5)
  assert worst(pred, recorded["pred"]) <= 1e-4
  patches = patchify(jnp.asarray(recorded["logmel"]), 4)
  np.testing.assert_array_equal(patches[:, :8], recorded["target_first8"])
  for kind, name in (("none", "no"), ("global", "global")):
    value = masked_mse(pred, normalise_target(patches, kind), masking.hidden)
    assert float(value) == pytest.approx(float(recorded[f"loss_{name}_pixel_norm"]), rel=1e-5)


def test_recorded_statistics(step, recorded):
  stats = step("torch_cpu")[2]["encoder"]["init_bn"]
  np.testing.assert_allclose(stats["mean"], recorded["bn_running_mean_after"], rtol=1e-5)
  np.testing.assert_allclose(stats["var"], recorded["bn_running_var_after"], rtol=1e-5)
  assert stats["count"] == recorded["bn_num_batches_tracked_after"]


def relative(ours, theirs) -> float:
  return worst(ours, theirs) / float(np.abs(theirs).max())


def test_recorded_gradients(step, recorded):
  """All to 1e-4, with the defect of PyTorch's CPU backward that the recording went through."""
  gradients = step("torch_cpu")[3]
  names = [name for name in recorded if name.startswith("grad.")]
  assert len(names) == 20
  errors = {name: relative(gradients[name[5:]], recorded[name]) for name in names}
  assert max(errors.values()) <= 1e-4, errors
  norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gradients.values()))
  assert norm == pytest.approx(float(recorded["grad_l2_all_params"]), rel=1e-5)


def test_exact_gradients_differ_in_the_input_normalisation_alone(step, recorded):
  exact, recorded_way = step("exact"), step("torch_cpu")
  assert exact[0] == recorded_way[0]
  for name, theirs in recorded.items():
    if name.startswith("grad."):
      error = relative(exact[3][name[5:]], theirs)
      if "init_bn" in name:
        assert error > 0.5, name
      else:
        assert error <= 1e-4, name


def test_exact_gradient_of_the_input_normalisation_by_differences(
  step, recorded, variables, masking
):
  """Central differences of the loss agree with "exact", so the recorded values cannot be right."""
  log_mel = jnp.asarray(recorded["logmel"])

  @jax.jit
  def loss(scale, bias):
    params = {**variables["params"]}
    params["encoder"] = {**params["encoder"], "init_bn": {"scale": scale, "bias": bias}}
    state = {**variables, "params": params}
    pred, target, _ = reconstruct(TINY, state, log_mel, masking, True)
    return masked_mse(pred, target, masking.hidden)

  norm = variables["params"]["encoder"]["init_bn"]
  gradients = step("exact")[3]
  directions = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
  for direction in directions:
    move = jnp.asarray(0.01 * direction)
    for i, name in enumerate(("weight", "bias")):
      at = [norm["scale"], norm["bias"]]
      up, down = ([*at[:i], at[i] + sign * move, *at[i + 1 :]] for sign in (1, -1))
      measured = float(loss(*up) - loss(*down)) / 0.02
      expected = float(direction @ gradients[f"encoder.init_bn.1.{name}"])
      assert measured == pytest.approx(expected, abs=2e-3), name
  theirs = recorded["grad.encoder.init_bn.1.bias"]
  assert np.abs(directions @ (gradients["encoder.init_bn.1.bias"] - theirs)).max() > 0.1


def test_recorded_latent_and_evaluation_mode(recorded, variables, masking):
  encoder = {name: variables[name]["encoder"] for name in variables}
  log_mel = jnp.asarray(recorded["logmel"])

  @jax.jit
  def run(log_mel):
    latent, _ = Encoder(TINY).apply(encoder, log_mel, masking.kept, True, mutable=["batch_stats"])
    still = Encoder(TINY).apply(encoder, log_mel, masking.kept)
    pred, target, stats = reconstruct(TINY, variables, log_mel, masking)
    return latent, still, masked_mse(pred, target, masking.hidden), stats

  latent, still, loss, stats = run(log_mel)
  assert worst(latent, recorded["latent"]) <= 1e-4
  assert worst(still, recorded["eval_latent"]) <= 1e-4
  assert float(loss) == pytest.approx(float(recorded["eval_loss"]), rel=1e-5)
  jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


def test_recorded_loss_from_the_waves(recorded, variables, masking, monkeypatch):
  """The complete path of training, with the recorded mask in place of a drawn one."""
  monkeypatch.setattr("dasheng_jax.mae.random_mask", lambda *_: masking)
  wave = jnp.asarray(from_int16(recorded["wave_i16"]))
  params, stats = variables["params"], variables["batch_stats"]
  loss, (after, _) = jax.jit(functools.partial(pretrain_loss, TINY))(
    params, stats, wave, jax.random.key(0)
  )
  assert float(loss) == pytest.approx(float(recorded["loss"]), rel=1e-5)
  assert after["encoder"]["init_bn"]["count"] == 1235


# --- behaviour, with the toy


@pytest.fixture(scope="module")
def loss_of(toy):
  cfg, variables = toy
  call = functools.partial(pretrain_loss, cfg, variables["params"], variables["batch_stats"])
  return jax.jit(call, static_argnames="train")


@pytest.fixture(scope="module")
def wave():
  return 0.1 * jax.random.normal(jax.random.key(0), (3, 640 * PATCHES - 160))


def test_loss_is_a_function_of_the_key(loss_of, wave):
  one, same, other = (loss_of(wave, jax.random.key(k))[0] for k in (1, 1, 2))
  assert one.shape == ()
  assert one == same
  assert one != other


def test_evaluation_leaves_the_statistics_alone(toy, loss_of, wave):
  _, (stats, _) = loss_of(wave, jax.random.key(1), train=False)
  jax.tree.map(np.testing.assert_array_equal, stats, toy[1]["batch_stats"])


def test_rows_of_padding_do_not_count_in_evaluation(loss_of, wave):
  doubled = jnp.concatenate([wave, wave[:1]])
  rows = jnp.array([True, True, True, False])
  whole = loss_of(doubled, jax.random.key(1), train=False, rows=rows)[0]
  changed = loss_of(doubled.at[3].multiply(0.5), jax.random.key(1), train=False, rows=rows)[0]
  assert float(whole) == pytest.approx(float(changed), rel=1e-5)
  assert float(loss_of(doubled, jax.random.key(1), train=False)[0]) != float(whole)


@pytest.mark.parametrize("padding", ["learn", "ignore"])
def test_the_patches_that_entered_the_loss_are_counted(toy, wave, padding):
  cfg, variables = toy
  cfg = dataclasses.replace(cfg, padding=padding)
  masking = random_mask(jax.random.key(1), 3, PATCHES, cfg.mask_ratio, cfg.mask_group)
  real = np.arange(PATCHES)[None] < np.array([[PATCHES], [7], [3]])

  @jax.jit
  def counted(valid, rows):
    _, (_, metrics) = pretrain_loss(
      cfg,
      variables["params"],
      variables["batch_stats"],
      wave,
      jax.random.key(1),
      False,
      valid=valid,
      rows=rows,
    )
    return metrics["counted"]

  value = counted(jnp.array([640 * PATCHES, 640 * 6 + 1, 640 * 3]), jnp.array([True, True, False]))
  hidden = np.asarray(masking.hidden) & (real if padding == "ignore" else True)
  assert value.dtype == jnp.float32
  assert value == hidden[:2].sum()
  assert value > 0


def test_padding_can_be_ignored(toy):
  """Patches of padding alone change neither predictions nor statistics of the others."""
  cfg, variables = toy
  log_mel = -30 + 12 * jax.random.normal(jax.random.key(0), (2, 64, 4 * PATCHES))
  valid = jnp.arange(PATCHES)[None] < jnp.array([[PATCHES], [7]])
  masking = random_mask(jax.random.key(1), 2, PATCHES, 0.5, 2)
  frames = jnp.repeat(valid, 4, axis=1)[:, None]

  @jax.jit
  def run(x):
    pred, _, stats = reconstruct(cfg, variables, x, masking, True, valid)
    return jnp.where(valid[:, :, None], pred, 0), stats

  one, other = run(log_mel), run(jnp.where(frames, log_mel, 40.0))
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), one, other)


def test_no_gradient_reaches_the_wave(toy, wave):
  cfg, variables = toy
  params, stats = variables["params"], variables["batch_stats"]
  loss = lambda w: pretrain_loss(cfg, params, stats, w, jax.random.key(0))[0]  # noqa: E731
  assert not jax.jit(jax.grad(loss))(wave).any()


@pytest.mark.parametrize(
  ("samples", "message"),
  [
    (0, "a crop of 0 samples gives no patch; at least 480"),
    (479, "at least 480 samples"),
    (640, r"1 patch\(es\) cannot be masked"),
    (640 * 3, r"3 patch\(es\) cannot be masked.*at least 4 patches"),
    (640 * 13, r"13 patches, but the time table ends at 12: crop to 0\.48 s or less"),
  ],
)
def test_crops_that_cannot_be_trained_on(toy, samples, message):
  with pytest.raises(ConfigError, match=message):
    check_crop(toy[0], samples)


def test_more_patches_than_positions_are_refused(toy_encoder):
  cfg, variables = toy_encoder
  with pytest.raises(ConfigError, match="13 patches do not fit the time table of 12"):
    Encoder(cfg).apply(variables, jnp.zeros((1, 64, 52)), jnp.zeros((1, 4), jnp.int32))


def test_visible_patches_alone_reach_the_encoder(toy):
  cfg, variables = toy
  masking = random_mask(jax.random.key(0), 1, PATCHES, cfg.mask_ratio, cfg.mask_group)
  run = jax.jit(lambda x: MaskedAutoencoder(cfg).apply(variables, x, masking))
  x = -30 + 12 * jax.random.normal(jax.random.key(1), (1, 64, 4 * PATCHES))
  hidden = jnp.repeat(masking.hidden, 4, axis=1)[:, None]
  np.testing.assert_array_equal(run(x), run(jnp.where(hidden, -80.0, x)))


def test_reconstruction_in_decibels(toy):
  cfg, _ = toy
  log_mel = -30 + 12 * jax.random.normal(jax.random.key(1), (1, 64, 4 * PATCHES))
  target = patchify(log_mel, 4)
  hidden = jnp.arange(PATCHES)[None] % 2 == 0
  for kind in ("patch", "global", "none"):
    chosen = dataclasses.replace(cfg, target_norm=kind)
    perfect = normalise_target(target, kind)
    np.testing.assert_allclose(
      reconstruction_db(chosen, log_mel, perfect, hidden), target, atol=1e-2
    )
  wrong = reconstruction_db(cfg, log_mel, jnp.zeros_like(target), hidden)
  np.testing.assert_array_equal(wrong[:, 1::2], target[:, 1::2])
