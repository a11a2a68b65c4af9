"""Waves and labels to a loss: what is drawn, what is mixed, what counts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.supervised.recipe import (
  ANNEALED,
  NO_AUGMENT,
  AugmentConfig,
  DistilConfig,
  TemperatureConfig,
)
from experiments.supervised.task import (
  Labels,
  Recipe,
  _heard,
  augmented,
  decided,
  labels_of,
  mixed_labels,
  supervised_task,
  temperature_of,
)
from experiments.training.epochs import Epochs
from experiments.training.errors import UsageError
from mobile_jax import config
from mobile_jax.config import DyMNConfig, MNConfig
from mobile_jax.losses import class_loss, soft_class_loss, tag_loss
from mobile_jax.network import infer, init_variables
from pipelines.impulse_response import Responses
from pipelines.kaldi_mel import KaldiMelConfig, log_mel_32k
from pipelines.mixing import mix
from tests.mobile_jax.fixtures import quick

ROWS, SAMPLES, CLASSES = 6, 6_400, 5
MEL = KaldiMelConfig(mel_bins=32, transform="fft")
MODEL = MNConfig(width=0.1, classes=CLASSES, dropout=0.0, mel=MEL).with_compute(kernels="xla")
EPOCHS = Epochs(count=4, clips=10, batch_size=4)
PLAIN = Recipe("classes", NO_AUGMENT, None, TemperatureConfig(), EPOCHS)


def recipe(**changes):
  return dataclasses.replace(PLAIN, **changes)


@pytest.fixture(scope="module", autouse=True)
def _few_blocks():
  """Two blocks, with SE and without: a fraction of the time to compile."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(config, "_TABLE", tuple(config._TABLE[i] for i in (0, 3)))
    yield


@pytest.fixture(scope="module")
def variables(_few_blocks):
  made = jax.jit(lambda key: init_variables(MODEL, key))(jax.random.key(0))
  return jax.device_get(made)


@pytest.fixture
def batch():
  draw = np.random.default_rng(0)
  wave = 0.1 * draw.standard_normal((ROWS, SAMPLES)).astype(np.float32)
  return {"wave": jnp.asarray(wave), "labels": jnp.asarray(np.arange(ROWS) % CLASSES)}


def tagged(batch, **more):
  draw = np.random.default_rng(1)
  return {**batch, "labels": jnp.asarray(draw.random((ROWS, CLASSES)) < 0.4, jnp.float32), **more}


@functools.cache
def program(recipe, train):
  task = supervised_task(MODEL, recipe)
  return quick(lambda *given: task.loss(*given, train))


def evaluate(recipe, variables, batch, train=False, seed=0):
  state = {"batch_stats": variables["batch_stats"]}
  run = program(recipe, train)
  value, (_, metrics) = run(variables["params"], state, batch, jax.random.key(seed))
  return float(value), metrics


def test_without_augmentation_the_network_sees_the_plain_log_mel(batch):
  inputs = augmented(MODEL, PLAIN, batch, jax.random.key(0))
  np.testing.assert_array_equal(inputs.log_mel, log_mel_32k(batch["wave"], MEL))
  np.testing.assert_array_equal(inputs.labels.targets, np.eye(CLASSES)[batch["labels"]])
  assert (inputs.share == 1).all()


# What acts by itself; the others say how one of these acts.
ACTING = ("gain", "roll", "wave_mixup", "perturb", "mixup", "mixstyle")


def test_every_augmentation_is_tried():
  others = {"responses", "response_p", "response_of", "mixstyle_alpha"}
  others |= {"pairs", "pair_alpha", "half_waves", "freq_mask", "time_mask", "mask_fill"}  # taggers'
  assert {f.name for f in dataclasses.fields(AugmentConfig)} == {*ACTING, *others}


@pytest.mark.parametrize("name", ACTING)
def test_each_augmentation_acts_by_itself_and_is_drawn_from_the_key(batch, name):
  default = getattr(AugmentConfig(), name) or 1.0
  one = recipe(augment=dataclasses.replace(NO_AUGMENT, **{name: default}))
  first, again, other = (
    augmented(MODEL, one, batch, jax.random.key(seed)).log_mel for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-3
  plain = log_mel_32k(batch["wave"], MEL)
  assert np.abs(first - plain).max() > 1e-3


def test_other_microphones_are_heard_by_the_main_device_alone(batch):
  """A response that delays by ten samples, on two of six clips; drawn by no other stream's key."""
  late = np.zeros((1, 11), np.float32)
  late[0, 10] = 1.0
  main = np.array([1, 0, 1, 0, 0, 0], bool)
  key = jax.random.key(4)

  def heard(of, main):
    one = recipe(responses=Responses(late, 1.0, of))
    return augmented(MODEL, one, {**batch, "main_device": jnp.asarray(main)}, key).log_mel

  delayed = jnp.pad(batch["wave"], ((0, 0), (10, 0)))[:, :SAMPLES]
  plain, other = log_mel_32k(batch["wave"], MEL), log_mel_32k(delayed, MEL)
  np.testing.assert_allclose(
    heard("main_device", main), jnp.where(main[:, None, None], other, plain), atol=2e-4
  )
  np.testing.assert_allclose(heard("all_devices", main), other, atol=2e-4)


def test_on_a_mesh_every_device_convolves_its_own_rows(batch):
  """No wave goes from device to device: the partitioner by itself would gather them for the FFT."""
  mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, PartitionSpec("data"))
  responses = Responses(np.eye(1, 11, 10, dtype=np.float32), 1.0, "all_devices")
  main = jnp.ones((ROWS,), bool)

  def heard(wave, main, key):
    return _heard(responses, wave, main, key)

  wave, key = batch["wave"], jax.random.key(0)
  with jax.set_mesh(mesh):
    compiled = (
      jax.jit(heard, in_shardings=(rows, rows, None), out_shardings=rows)
      .lower(wave, main, key)
      .compile()
    )
    found = compiled(jax.device_put(wave, rows), jax.device_put(main, rows), key)
  assert "all-gather" not in compiled.as_text()
  np.testing.assert_allclose(found, jnp.pad(wave, ((0, 0), (10, 0)))[:, :SAMPLES], atol=1e-6)


def test_the_share_of_own_statistics_is_drawn_from_its_alpha(batch):
  mixed = [
    augmented(
      MODEL,
      recipe(augment=dataclasses.replace(NO_AUGMENT, mixstyle=1.0, mixstyle_alpha=alpha)),
      batch,
      jax.random.key(1),
    ).log_mel
    for alpha in (0.3, 0.4)
  ]
  assert np.abs(mixed[0] - mixed[1]).max() > 1e-3


def test_labels_are_mixed_as_the_spectrograms_are(batch):
  one = recipe(augment=dataclasses.replace(NO_AUGMENT, mixup=0.3))
  inputs = augmented(MODEL, one, batch, jax.random.key(3))
  plain = log_mel_32k(batch["wave"], MEL)
  np.testing.assert_array_equal(inputs.log_mel, mix(plain, inputs.share, inputs.partner))
  targets = np.asarray(inputs.labels.targets)
  np.testing.assert_allclose(targets.sum(axis=1), 1.0, rtol=1e-6)
  for row in range(ROWS):
    own, partner = int(batch["labels"][row]), int(batch["labels"][inputs.partner[row]])
    want = float(inputs.share[row]) if own != partner else 1.0
    assert targets[row, own] == pytest.approx(want, rel=1e-6)


def test_judgements_of_mixed_waves():
  """Probabilities times judgement of each, mixed, and only then a yes above a half."""
  targets = jnp.array([[0.8, 1.0, 0.0, 0.4], [0.0, 1.0, 1.0, 0.9]])
  judged = jnp.array([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
  labels = Labels(targets, judged, jnp.ones(2, bool))
  found = mixed_labels(labels, jnp.array([0.55, 1.0]), jnp.array([1, 0]))
  want = [[0.55 * 0.8, 0.45, 0.45, 0.55 * 0.4 + 0.45 * 0.9], [0, 1, 1, 0.9]]
  np.testing.assert_allclose(found.targets, want, rtol=1e-6)
  np.testing.assert_array_equal(found.judged, jnp.ones((2, 4)))
  np.testing.assert_array_equal(decided(found).targets, [[0, 0, 0, 1], [0, 1, 1, 1]])
  alone = mixed_labels(labels, jnp.ones(2), jnp.array([1, 0]))
  np.testing.assert_array_equal(alone.judged, judged)


def test_probabilities_become_a_yes_or_no_where_judgements_are(variables, batch):
  """In training and in evaluation; other targets stay what they are."""
  labels = jnp.full((ROWS, CLASSES), 0.6)
  judged = {**batch, "labels": labels, "judged": jnp.ones((ROWS, CLASSES))}
  sure = {**judged, "labels": jnp.ones((ROWS, CLASSES))}
  tags = recipe(objective="tags")
  for train in (False, True):
    assert evaluate(tags, variables, judged, train)[0] == evaluate(tags, variables, sure, train)[0]
  assert (augmented(MODEL, tags, judged, jax.random.key(0)).labels.targets == 1).all()
  assert (decided(labels_of({"labels": labels}, "tags", CLASSES)).targets == labels).all()


@pytest.mark.parametrize("objective", ["classes", "tags"])
def test_evaluation_is_the_mean_over_what_is_no_padding(variables, batch, objective):
  batch = batch if objective == "classes" else tagged(batch)
  mask = jnp.arange(ROWS) < 4
  value, metrics = evaluate(recipe(objective=objective), variables, {**batch, "mask": mask})
  logits = infer(MODEL, variables, log_mel_32k(batch["wave"], MEL)).logits
  np.testing.assert_allclose(metrics["outputs"], logits, atol=1e-5)
  labels = batch["labels"]
  rows = (
    class_loss(logits, jax.nn.one_hot(labels, CLASSES))
    if objective == "classes"
    else tag_loss(logits, labels)
  )
  assert value == pytest.approx(float(rows[:4].mean()), rel=1e-5)
  assert float(metrics["counted"]) == 4
  hostile = {**batch, "mask": mask, "wave": jnp.where(mask[:, None], batch["wave"], 1e3)}
  assert evaluate(recipe(objective=objective), variables, hostile)[0] == pytest.approx(value)


def test_a_clip_without_a_class_counts_nowhere(variables, batch):
  unknown = {**batch, "labels": batch["labels"].at[0].set(-1)}
  value, metrics = evaluate(PLAIN, variables, unknown, train=True)
  assert float(metrics["counted"]) == ROWS - 1
  nobody = {**batch, "labels": jnp.full(ROWS, -1)}
  lost, metrics = evaluate(PLAIN, variables, nobody, train=True)
  assert (lost, float(metrics["counted"])) == (0.0, 0.0)
  assert value > 0


@pytest.mark.parametrize("objective", ["classes", "tags"])
def test_distillation_weighs_label_and_teacher(variables, batch, objective):
  batch = batch if objective == "classes" else tagged(batch)
  teacher = jnp.asarray(np.random.default_rng(2).standard_normal((ROWS, CLASSES)), jnp.float32)
  known = jnp.arange(ROWS) != 2
  taught = {**batch, "teacher": teacher, "known": known}
  both = recipe(objective=objective, distil=DistilConfig(label_weight=0.25))
  value, metrics = evaluate(both, variables, taught, train=True)
  label, soft = float(metrics["label_loss"]), float(metrics["teacher_loss"])
  assert value == pytest.approx(0.25 * label + 0.75 * soft, rel=1e-5)
  alone = evaluate(recipe(objective=objective), variables, batch, train=True)[0]
  assert label == pytest.approx(alone, rel=1e-5)
  nothing = recipe(objective=objective, distil=DistilConfig(label_weight=0.0))
  assert evaluate(nothing, variables, taught, train=True)[0] == pytest.approx(alone, rel=1e-5)
  hostile = {**taught, "teacher": teacher.at[2].set(jnp.nan)}
  assert evaluate(both, variables, hostile, train=True)[0] == pytest.approx(value, rel=1e-6)


def test_soft_classes_are_a_divergence_at_the_temperature():
  draw = np.random.default_rng(3)
  student, teacher = draw.standard_normal((2, 4, 5)).astype(np.float32)
  alone = (jnp.ones(4, bool), jnp.ones(4), jnp.arange(4))
  same = soft_class_loss(jnp.asarray(teacher), jnp.asarray(teacher), *alone, temperature=3.0)
  np.testing.assert_allclose(same, 0.0, atol=1e-5)
  found = soft_class_loss(jnp.asarray(student), jnp.asarray(teacher), *alone, temperature=2.0)
  p, q = (np.exp(x / 2) / np.exp(x / 2).sum(axis=1, keepdims=True) for x in (teacher, student))
  np.testing.assert_allclose(found, 4 * (p * np.log(p / q)).sum(axis=1), rtol=1e-5)
  far = soft_class_loss(jnp.asarray(student), jnp.full((4, 5), -1e4).at[:, 0].set(1e4), *alone)
  assert np.isfinite(far).all()


def test_the_temperature_falls_epoch_by_epoch():
  one = recipe(temperature=ANNEALED)
  at = temperature_of(one)
  # Ten clips in steps of four: the epochs begin at the steps 0, 3, 5 and 8.
  found = [float(at(jnp.int32(step))) for step in range(10)]
  assert found == [30, 30, 30, 29, 29, 28, 28, 28, 27, 27]
  assert [float(at(step)) for step in (0, 9, 99)] == [30, 27, 27]
  task = supervised_task(DyMNConfig(width=0.1), one)
  assert [name for name, _ in task.scheduled] == ["temperature"]
  assert supervised_task(MODEL, one).scheduled == ()


def test_settings_that_mean_nothing_are_refused():
  for make, match in (
    (lambda: AugmentConfig(mixstyle=1.5), "--augment.mixstyle 1.5: it must be from 0 to 1"),
    (lambda: AugmentConfig(gain=-1), "--augment.gain -1"),
    (lambda: DistilConfig(label_weight=-0.1), "--distil.label_weight -0.1"),
    (lambda: DistilConfig(temperature=0.0), "--distil.temperature 0.0"),
    (lambda: TemperatureConfig(end=0.0), "--temperature.end 0.0"),
  ):
    with pytest.raises(UsageError, match=match):
      make()
