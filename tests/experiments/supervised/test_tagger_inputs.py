"""What the weakly supervised taggers are trained on: pairs of clips, changed waves, masks, loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.supervised.recipe import NO_AUGMENT, AugmentConfig, TemperatureConfig
from experiments.supervised.task import (
  _DRAWS,
  Labels,
  Recipe,
  _paired,
  augmented,
  paired_labels,
  supervised_task,
)
from experiments.training.epochs import Epochs
from experiments.training.errors import UsageError
from mobile_jax import decision_config
from mobile_jax.decision_config import MobileNetV2Config
from mobile_jax.inference import log_mel
from mobile_jax.losses import probability_cross_entropy
from mobile_jax.network import init_variables, train_outputs
from pipelines.mixing import draw_pair_mixing, mix_pairs
from pipelines.spec_masks import spec_masks
from pipelines.wave_augment import augment_half
from tests.mobile_jax.fixtures import quick

ROWS, SAMPLES, CLASSES = 6, 3_200, 5
MODEL = MobileNetV2Config(width=0.25, last=16, classes=CLASSES, dropout=0.0)
PLAIN = Recipe("tags", NO_AUGMENT, None, TemperatureConfig(), Epochs(4, 10, 4))
KEY = jax.random.key(3)


def recipe(**augment):
  return dataclasses.replace(PLAIN, augment=dataclasses.replace(NO_AUGMENT, **augment))


@functools.cache
def program(recipe):
  return quick(functools.partial(augmented, MODEL, recipe))


def drawn(name, key=KEY):
  return jax.random.split(key, len(_DRAWS))[_DRAWS.index(name)]


@pytest.fixture(scope="module")
def batch():
  draw = np.random.default_rng(0)
  # Levels apart, so that the clamp by the loudest clip shows which clips a log-mel was made of.
  level = 10.0 ** -np.arange(ROWS)[:, None]
  wave = (level * draw.standard_normal((ROWS, SAMPLES))).astype(np.float32)
  labels = (draw.random((ROWS, CLASSES)) < 0.4).astype(np.float32)
  return {"wave": jnp.asarray(wave), "labels": jnp.asarray(labels)}


@pytest.mark.parametrize("where", ["wave", pytest.param("spectrum", marks=pytest.mark.slow)])
def test_pairs_and_their_labels_are_mixed_by_the_same_shares(batch, where):
  one = recipe(pairs=where, pair_alpha=0.5)
  found = program(one)(batch, KEY)
  share = draw_pair_mixing(drawn("pairs"), ROWS, 0.5)
  if where == "wave":
    want = log_mel(MODEL, mix_pairs(batch["wave"], share))
  else:
    want = mix_pairs(log_mel(MODEL, batch["wave"]), share)
  np.testing.assert_allclose(found.log_mel, want, atol=1e-4)
  np.testing.assert_allclose(
    found.labels.targets, mix_pairs(batch["labels"], share), atol=1e-6, rtol=0
  )
  assert found.labels.known.shape == found.share.shape == (ROWS // 2,)
  other = program(one)(batch, jax.random.key(4))
  assert np.abs(other.labels.targets - found.labels.targets).max() > 1e-3


def test_an_odd_batch_is_not_mixed(batch):
  odd = {name: x[:5] for name, x in batch.items()}
  found = program(recipe(pairs="wave"))(odd, KEY)
  np.testing.assert_allclose(found.log_mel, log_mel(MODEL, odd["wave"]), atol=1e-4)
  np.testing.assert_array_equal(found.labels.targets, odd["labels"])


def test_masks_are_one_pair_for_the_batch_and_hold_their_fill(batch):
  plain = log_mel(MODEL, batch["wave"])
  for fill in (0.0, -100.0):
    one = recipe(freq_mask=12, time_mask=8, mask_fill=fill)
    found = np.asarray(program(one)(batch, KEY).log_mel)
    hidden = np.abs(found - plain) > 1e-3
    assert (hidden == hidden[:1]).all()
    assert hidden.any(axis=2).all() or hidden.any(axis=1).all()  # a whole row or column of cells
    assert (found[hidden] == fill).all()
    assert 0 < hidden.mean() < 0.6


def test_the_whole_recipe_is_pairs_then_changed_waves_then_masks(batch):
  whole = recipe(pairs="wave", half_waves=0.5, freq_mask=12, time_mask=8)
  found = program(whole)(batch, KEY).log_mel
  wave = mix_pairs(batch["wave"], draw_pair_mixing(drawn("pairs"), ROWS))
  wave = augment_half(wave, drawn("half_waves"), 0.5)
  want = spec_masks(log_mel(MODEL, wave), drawn("masks"), 12, 8, "batch", 0.0)
  np.testing.assert_allclose(found, want, atol=1e-4)
  again = program(whole)(batch, KEY).log_mel
  np.testing.assert_array_equal(found, again)


def test_what_was_drawn_before_is_drawn_as_before():
  """Runs that were begun without these augmentations go on to the same bits."""
  few = jax.random.key_data(jax.random.split(KEY, 8))
  np.testing.assert_array_equal(jax.random.key_data(jax.random.split(KEY, len(_DRAWS)))[:8], few)
  assert _DRAWS[:8] == (
    *("gain", "roll", "wave_mixup", "band", "mixup", "mixstyle", "dropout", "response"),
  )


def test_labels_of_pairs_that_are_not_known_of_both():
  labels = Labels(
    jnp.array([[0.8, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]),
    jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
    jnp.array([True, True, True, False]),
  )
  found = paired_labels(labels, jnp.array([0.75, 0.5]))
  np.testing.assert_allclose(found.targets, [[0.6, 0.0], [0.5, 0.0]])
  np.testing.assert_array_equal(found.judged, [[1, 0], [1, 1]])
  assert found.known.tolist() == [True, False]


def test_the_loss_is_that_of_mean_probabilities_over_mixed_clips(batch, monkeypatch):
  """Cross entropy of the mean over time of probabilities, as released, over half as many clips."""
  monkeypatch.setattr(decision_config, "_V2_STAGES", ((1, 16, 1, 1), (6, 24, 1, 2)))
  variables = jax.device_get(quick(lambda key: init_variables(MODEL, key))(KEY))
  one = recipe(pairs="wave", freq_mask=12)
  task = supervised_task(MODEL, one)

  @quick
  def both(variables, batch, key):
    state = {"batch_stats": variables["batch_stats"]}
    value, (_, metrics) = task.loss(variables["params"], state, batch, key, True)
    inputs = augmented(MODEL, one, batch, jax.random.split(key)[0])
    frames = train_outputs(MODEL, variables, inputs.log_mel, None)[0].frames
    rows = probability_cross_entropy(jnp.mean(frames, axis=1), inputs.labels.targets)
    return value, metrics["counted"], jnp.mean(rows)

  value, counted, want = both(variables, batch, KEY)
  assert float(counted) == ROWS // 2
  assert float(value) == pytest.approx(float(want), rel=1e-5)


def test_pairs_over_two_devices_are_the_same(batch):
  """Four clips on two devices: each pair lies on one of them, half of the batch on each."""
  mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, PartitionSpec("data"))
  labels = Labels(batch["labels"][:4], None, jnp.ones(4, bool))
  mixed = functools.partial(_paired, alpha=1.0)
  want, want_labels = mixed(batch["wave"][:4], labels, KEY)
  split = Labels(*(x if x is None else jax.device_put(x, rows) for x in labels))
  found, found_labels = jax.jit(mixed)(jax.device_put(batch["wave"][:4], rows), split, KEY)
  np.testing.assert_allclose(found, want, atol=1e-6)
  np.testing.assert_allclose(found_labels.targets, want_labels.targets, atol=1e-6)


def test_settings_that_mean_nothing_are_refused():
  for how, match in (
    ({"pairs": "wave"}, "--augment.pairs wave: mixes clips by itself; set --augment.wave_mixup 0"),
    ({"half_waves": 2.0}, "--augment.half_waves 2.0: it must be from 0 to 1"),
    ({"freq_mask": -1}, "--augment.freq_mask -1"),
    ({"pair_alpha": 0.0}, "--augment.pair_alpha 0.0: it must be more than 0"),
    ({"mask_fill": float("nan")}, "--augment.mask_fill nan"),
  ):
    with pytest.raises(UsageError, match=match):
      AugmentConfig(**how)
