"""Runs that train the classifier alone, and runs that are judged by whole recordings."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import soundfile

from experiments.configs.finetune import adam
from experiments.configs.supervised import EpochLoopConfig
from experiments.score import ScoreConfig, score_whole
from experiments.supervised.recipe import NO_AUGMENT
from experiments.supervised.run import run
from experiments.supervised.task import classifier_paths, frozen_but_classifier
from experiments.training.errors import UsageError
from experiments.training.paths import leaves_by_path
from mobile_jax import config, decision_config, read_model
from mobile_jax.decision_config import MobileNetV2Config
from mobile_jax.network import init_variables
from mobile_jax.weights.load import write_model
from pipelines import Dataset
from pipelines.sets import open_set
from tests.experiments.supervised.small_runs import compiled_once
from tests.experiments.supervised.test_run import MODEL, TINY
from tests.pipelines.conftest import index_cache, tone  # noqa: F401

replace = dataclasses.replace


@pytest.fixture(scope="module", autouse=True)
def _compiled_once():
  with compiled_once() as patch:
    patch.setattr(config, "_TABLE", tuple(config._TABLE[i] for i in (0, 3)))
    yield


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
  """Two classes of tones, of two lengths."""
  folder = tmp_path_factory.mktemp("audio")
  for part, count in (("train", 8), ("test", 4)):
    for n in range(count):
      path = folder / part / ("low", "high")[n % 2] / f"{n}.wav"
      path.parent.mkdir(parents=True, exist_ok=True)
      wave = tone(3 + 90 * (n % 2) + n, 0.25 + 0.1 * (n // 2 % 2), 32_000)
      soundfile.write(path, wave, 32_000)
  return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "start.safetensors"
  made = jax.jit(lambda key: init_variables(MODEL, key))(jax.random.key(1))
  write_model(path, MODEL, jax.device_get(made))
  return path


def configured(audio, workdir, **changes):
  data = replace(TINY.data, source=(f"folder={audio}",))
  cfg = replace(
    TINY, data=data, workdir=str(workdir), augment=NO_AUGMENT, optim=adam(1e-2), whole=True
  )
  return replace(cfg, **({"loop": EpochLoopConfig(epochs=1, batch_size=4)} | changes))


@pytest.mark.slow
def test_only_the_classifier_moves_and_whole_recordings_are_scored(audio, weights, tmp_path):
  workdir = tmp_path / "run"
  assert run(configured(audio, workdir, init=str(weights), frozen=True)) == 0
  before = leaves_by_path(read_model(str(weights))[1])
  model, variables = read_model(str(workdir / "export" / "model.safetensors"))
  after = leaves_by_path(variables)
  moved = {
    path
    for path, x in after.items()
    if x.shape != before[path].shape or not np.array_equal(x, before[path])
  }
  assert moved == {"params/head/logits/kernel", "params/head/logits/bias"}
  # What the report says is what the network says of recordings at their own lengths.
  report = json.loads((workdir / "report.json").read_text())
  data = replace(ScoreConfig().data, source=(f"folder={audio}",), cache="memory", crop="single")
  labelled = open_set(f"folder={audio}", data)
  dataset = Dataset(data, labelled.part("test"))
  scores = score_whole(model, variables, dataset, labelled, 0.0).means
  assert report["log_loss"] == pytest.approx(scores["log_loss"], rel=1e-5)
  assert report["accuracy"] == scores["accuracy"]
  assert report["clips"] == 4


HEADS = {
  "mlp": {"head/logits/kernel", "head/logits/bias"},
  "fully_convolutional": {"head/kernel", "head/norm/scale", "head/norm/bias"},
  "attention": {"head/subspaces/kernel", "head/subspaces/bias"},
}


@pytest.mark.parametrize("head", HEADS)
def test_the_classifier_is_what_goes_by_the_number_of_classes(head):
  assert classifier_paths(replace(MODEL, head=head)) == HEADS[head]


def test_steps_that_decide_have_one_classifier(monkeypatch):
  monkeypatch.setattr(decision_config, "_V2_STAGES", ((1, 16, 1, 1),))
  model = MobileNetV2Config(width=0.5, last=16, classes=3)
  assert classifier_paths(model) == {"head/logits/kernel", "head/logits/bias"}
  params = {"stem": {"kernel": np.ones(2)}, "head": {"logits": {"kernel": np.ones(2)}}}

  def total(tree):
    return sum(x.sum() for x in jax.tree.leaves(frozen_but_classifier(model, tree)))

  slopes = leaves_by_path(jax.grad(total)(params))
  assert slopes["head/logits/kernel"].all()
  assert not slopes["stem/kernel"].any()


def test_what_cannot_be_frozen_is_named(audio, weights, tmp_path):
  for changes, match in (
    ({}, "--frozen: name the weights that stay, with --init"),
    ({"init": str(weights), "optim": replace(adam(1e-3), weight_decay=0.1)}, "weight_decay 0"),
  ):
    with pytest.raises(UsageError, match=match):
      run(configured(audio, tmp_path / "x", frozen=True, **changes))
