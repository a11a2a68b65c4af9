"""Tagging and scene classification as a `Task`: waves and labels in, a loss out.

    wave f32[b, s] -> other microphones, gain, roll, wave mixup -> log-mel f32[b, f, frames]
                   -> mixup or MixStyle, masks -> network -> logits f32[b, k]
                   -> loss against labels, and against a teacher

Where clips are mixed by pairs (`pairs`), b is half as many from there on.

Source: reference text of MN and DyMN, section 10; of the scene models, section 5; of the weakly
supervised taggers, section 3.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dasheng_jax.sharding import each_row_at_home
from experiments.supervised.recipe import AugmentConfig, DistilConfig, TemperatureConfig
from experiments.training.epochs import Epochs
from experiments.training.paths import leaves_by_path, map_by_path
from experiments.training.task import Batch, Metrics, Task, Tree
from mobile_jax import inference
from mobile_jax.config import DyMNConfig
from mobile_jax.dynamic import temperature_at
from mobile_jax.losses import class_loss, distilled, soft_class_loss, soft_tag_loss, tag_loss
from mobile_jax.network import Config, infer, init_variables, shapes, train_outputs
from mobile_jax.passt_config import PaSSTConfig
from pipelines.impulse_response import Responses
from pipelines.kaldi_mel import KaldiMelConfig, perturbed_log_mel
from pipelines.mixing import (
  draw_mixing,
  draw_pair_mixing,
  draw_wave_mixing,
  mix,
  mix_pairs,
  mix_waves,
)
from pipelines.mixstyle import draw_mixstyle, mixstyle
from pipelines.sets import Objective
from pipelines.spec_masks import spec_masks
from pipelines.wave_augment import augment_half, draw_gain, draw_shift, roll

# Small enough to be whole on every device.
PARAM_AXES = ((r"", ()),)
# Keys by number: what is added goes to the end, so that all before it draw what they always drew.
_DRAWS = (
  *("gain", "roll", "wave_mixup", "band", "mixup", "mixstyle", "dropout", "response"),
  *("pairs", "half_waves", "masks"),
)


class Labels(NamedTuple):
  """What is known of the clips of a batch.

  Attributes:
    targets: 0 to 1 for each class.
    judged: 0 where nobody knows, or None where all is known.
    known: False for a clip without any label.
  """

  targets: Float[Array, "b k"]
  judged: Float[Array, "b k"] | None
  known: Bool[Array, " b"]


class Inputs(NamedTuple):
  """What a training step feeds to the network, and what it should answer.

  `share` and `partner` tell how log-mels were mixed; see `pipelines.mixing`.
  """

  log_mel: Float[Array, "b f frames"]
  labels: Labels
  share: Float[Array, " b"]
  partner: Int[Array, " b"]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a network is trained on a set.

  Attributes:
    objective: "classes" or "tags".
    augment, distil, temperature: see `recipe`; distil None has no teacher.
    epochs: of the run.
    norm_momentum: of the norms' running statistics; None is the network's own.
    responses: microphones that training clips may be heard through; None has none.
    frozen: whether the classifier alone is trained, on the network in inference mode.
  """

  objective: Objective
  augment: AugmentConfig
  distil: DistilConfig | None
  temperature: TemperatureConfig
  epochs: Epochs
  norm_momentum: float | None = None
  responses: Responses | None = None
  frozen: bool = False


def supervised_task(model: Config, recipe: Recipe) -> Task:
  """The task of a network.

  Batches hold wave, labels, and perhaps judged, teacher and known, main_device.
  """

  def init(key: jax.Array) -> dict[str, Tree]:
    variables = init_variables(model, key)
    return {"params": variables["params"], "model_state": {"batch_stats": variables["batch_stats"]}}

  def loss(
    params: Tree, model_state: Tree, batch: Batch, key: jax.Array, train: bool
  ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
    variables = {"params": params, **model_state}
    way = _train_loss if train else _eval_loss
    return way(model, recipe, variables, batch, key)

  scheduled: tuple[tuple[str, Any], ...] = ()
  if isinstance(model, DyMNConfig):
    scheduled = (("temperature", temperature_of(recipe)),)
  return Task(init, loss, PARAM_AXES, scheduled)


def temperature_of(recipe: Recipe):
  """The function of the step that has the temperature of its epoch."""
  cfg = recipe.temperature
  return recipe.epochs.table(lambda epoch: float(temperature_at(epoch, **dataclasses.asdict(cfg))))


def labels_of(batch: Batch, objective: Objective, classes: int) -> Labels:
  """Labels as targets: class numbers i32[b] become one-hot rows, and -1 becomes an unknown clip."""
  labels = batch["labels"]
  if objective == "classes":
    return Labels(jax.nn.one_hot(labels, classes), None, labels >= 0)
  known = jnp.ones((labels.shape[0],), bool)
  return Labels(labels, batch.get("judged"), known)


def decided(labels: Labels) -> Labels:
  """Where listeners judged, their probabilities made a yes or no; all else as it is."""
  if labels.judged is None:
    return labels
  return labels._replace(targets=(labels.targets > 0.5).astype(jnp.float32))


def augmented(model: Config, recipe: Recipe, batch: Batch, key: jax.Array) -> Inputs:
  """A training batch as the network is to see it."""
  cfg = recipe.augment
  keys = dict(zip(_DRAWS, jax.random.split(key, len(_DRAWS)), strict=True))
  wave, rows = batch["wave"], batch["wave"].shape[0]
  labels = labels_of(batch, recipe.objective, model.classes)
  if recipe.responses is not None:
    main = batch.get("main_device", jnp.ones((rows,), bool))
    wave = _heard(recipe.responses, wave, main, keys["response"])
  if cfg.gain:
    wave = wave * draw_gain(keys["gain"], rows, cfg.gain)[:, None]
  if cfg.roll:
    wave = roll(wave, draw_shift(keys["roll"], rows, cfg.roll))
  if cfg.wave_mixup:
    share, partner = draw_wave_mixing(keys["wave_mixup"], rows, cfg.wave_mixup)
    wave = mix_waves(wave, share, partner)
    labels = mixed_labels(labels, share, partner)
  if cfg.pairs == "wave":
    wave, labels = _paired(wave, labels, keys["pairs"], cfg.pair_alpha)
  if cfg.half_waves:
    wave = augment_half(wave, keys["half_waves"], cfg.half_waves)
  labels = decided(labels)
  if cfg.perturb and isinstance(model.mel, KaldiMelConfig):  # no other front end has such a band
    log_mel = perturbed_log_mel(wave, model.mel, keys["band"])
  else:
    log_mel = inference.log_mel(model, wave)
  if cfg.pairs == "spectrum":
    log_mel, labels = _paired(log_mel, labels, keys["pairs"], cfg.pair_alpha)
  rows = log_mel.shape[0]
  if cfg.mixstyle:
    used, share, partner = draw_mixstyle(keys["mixstyle"], rows, cfg.mixstyle, cfg.mixstyle_alpha)
    log_mel = jnp.where(used, mixstyle(log_mel, share, partner), log_mel)
    share, partner = jnp.ones((rows,)), jnp.arange(rows)
  else:
    share, partner = draw_mixing(keys["mixup"], rows, cfg.mixup)
    log_mel = mix(log_mel, share, partner) if cfg.mixup else log_mel
  if cfg.freq_mask or cfg.time_mask:
    widths = cfg.freq_mask, cfg.time_mask
    log_mel = spec_masks(log_mel, keys["masks"], *widths, sharing="batch", fill=cfg.mask_fill)
  targets = mix(labels.targets, share, partner)
  return Inputs(log_mel, labels._replace(targets=targets), share, partner)


def _heard(
  responses: Responses, wave: Float[Array, "b s"], main: Bool[Array, " b"], key: jax.Array
) -> Float[Array, "b s"]:
  """Waves through other microphones; on a mesh every device convolves its own rows."""
  which = responses.draw(key, main)
  # One array of rows: numbers of responses are small enough for float32.
  rows = jnp.concatenate([wave, which[:, None].astype(wave.dtype)], axis=1)

  def convolved(rows: jax.Array) -> jax.Array:
    return responses.through(rows[:, :-1], rows[:, -1].astype(jnp.int32))

  return each_row_at_home(convolved, rows)


def mixed_labels(labels: Labels, share: Float[Array, " b"], partner: Int[Array, " b"]) -> Labels:
  """Labels of mixed waves: probabilities that were judged are mixed, and what either clip's
  listeners judged is judged.
  """
  targets, judged = labels.targets, labels.judged
  if judged is None:
    return labels._replace(targets=mix(targets, share, partner))
  mixed = mix(targets * judged, share, partner)
  both = jnp.where(share[:, None] < 1, jnp.maximum(judged, judged[partner]), judged)
  return labels._replace(targets=mixed, judged=both)


def _paired(
  x: Float[Array, "b ..."], labels: Labels, key: jax.Array, alpha: float
) -> tuple[Float[Array, "rows ..."], Labels]:
  """Clips mixed by pairs, and their labels."""
  share = draw_pair_mixing(key, x.shape[0], alpha)
  return mix_pairs(x, share), paired_labels(labels, share)


def paired_labels(labels: Labels, share: Float[Array, " pairs"]) -> Labels:
  """Labels of clips mixed by pairs; as with `mixed_labels`, what either clip's listeners judged is
  judged. A pair with an unknown clip is unknown.
  """
  targets, judged, known = labels
  if len(known) % 2:
    return labels
  if judged is not None:
    targets, judged = targets * judged, jnp.maximum(judged[::2], judged[1::2])
  return Labels(mix_pairs(targets, share), judged, known[::2] & known[1::2])


def _train_loss(
  model: Config, recipe: Recipe, variables: Tree, batch: Batch, key: jax.Array
) -> tuple[jax.Array, tuple[Tree, Metrics]]:
  for_augment, for_dropout = jax.random.split(key)
  inputs = augmented(model, recipe, batch, for_augment)
  if recipe.frozen:
    held = {**variables, "params": frozen_but_classifier(model, variables["params"])}
    logits = infer(model, held, inputs.log_mel, **_temperature(model, batch)).logits
    loss, metrics = training_loss(recipe, logits, batch, inputs)
    return loss, ({"batch_stats": variables["batch_stats"]}, metrics)
  outputs, stats = train_outputs(
    model,
    variables,
    inputs.log_mel,
    for_dropout if model.dropout or isinstance(model, PaSSTConfig) else None,
    momentum=recipe.norm_momentum,
    **_temperature(model, batch),
  )
  loss, metrics = training_loss(recipe, outputs.logits, batch, inputs)
  return loss, ({"batch_stats": stats}, metrics)


def frozen_but_classifier(model: Config, params: Tree) -> Tree:
  """The parameters, without gradients but for the classifier's."""
  free = classifier_paths(model)
  return map_by_path(lambda path, x: x if path in free else jax.lax.stop_gradient(x), params)


@functools.cache
def classifier_paths(model: Config) -> frozenset[str]:
  """Paths of the parameters whose shapes go by the number of classes."""
  more = dataclasses.replace(model, classes=model.classes + 1)
  ours, theirs = (leaves_by_path(shapes(one)["params"]) for one in (model, more))
  return frozenset(path for path, leaf in ours.items() if leaf.shape != theirs[path].shape)


def training_loss(
  recipe: Recipe, logits: jax.Array, batch: Batch, inputs: Inputs
) -> tuple[jax.Array, Metrics]:
  """(loss, metrics) of a training batch's logits against labels and, if there is one, a teacher."""
  rows = label_term = _label_loss(recipe.objective, logits, inputs.labels)
  counted = jnp.sum(inputs.labels.known)

  def mean(values: jax.Array) -> jax.Array:
    return jnp.sum(values * inputs.labels.known) / jnp.maximum(counted, 1)

  metrics = {"counted": counted.astype(jnp.float32)}
  if recipe.distil is not None and recipe.distil.label_weight:
    soft = _teacher_loss(recipe, logits, batch, inputs)
    rows = distilled(label_term, soft, recipe.distil.label_weight)
    metrics |= {"label_loss": mean(label_term), "teacher_loss": mean(soft)}
  return mean(rows), metrics


def _eval_loss(
  model: Config, recipe: Recipe, variables: Tree, batch: Batch, key: jax.Array
) -> tuple[jax.Array, tuple[Tree, Metrics]]:
  del key
  # Figures must not depend on the clips that happen to share a batch.
  log_mel = inference.log_mel(inference.alone(model), batch["wave"])
  logits = infer(model, variables, log_mel, **_temperature(model, batch)).logits
  loss, counted = evaluation_loss(model, recipe, logits, batch)
  state = {name: x for name, x in variables.items() if name != "params"}
  return loss, (state, {"counted": counted, "outputs": logits})


def evaluation_loss(
  model: Config, recipe: Recipe, logits: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array]:
  """(mean loss, over how many clips) of an evaluation batch's logits, padding left out."""
  labels = decided(labels_of(batch, recipe.objective, model.classes))
  real = labels.known & batch.get("mask", jnp.ones_like(labels.known))
  counted = jnp.sum(real).astype(jnp.float32)
  rows = _label_loss(recipe.objective, logits, labels)
  return jnp.sum(jnp.where(real, rows, 0.0)) / jnp.maximum(counted, 1), counted


def _temperature(model: Config, batch: Batch) -> dict[str, Any]:
  return {"temperature": batch["temperature"]} if isinstance(model, DyMNConfig) else {}


def _label_loss(objective: Objective, logits: jax.Array, labels: Labels) -> jax.Array:
  if objective == "classes":
    return class_loss(logits, labels.targets)
  return tag_loss(logits, labels.targets, labels.judged)


def _teacher_loss(recipe: Recipe, logits: jax.Array, batch: Batch, inputs: Inputs) -> jax.Array:
  assert recipe.distil is not None
  soft: Any = soft_tag_loss
  if recipe.objective == "classes":
    soft = functools.partial(soft_class_loss, mean_over=recipe.distil.mean_over)
  return soft(
    logits,
    batch["teacher"],
    batch["known"],
    inputs.share,
    inputs.partner,
    temperature=recipe.distil.temperature,
    unknown_partner=recipe.distil.unknown_partner,
  )
