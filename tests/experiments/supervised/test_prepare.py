"""What of a configuration labelled sets refuse before anything is trained."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from experiments import quantise
from experiments.configs.finetune import EXPERIMENTS
from experiments.configs.quantise import EXPERIMENTS as QUANTISE
from experiments.configs.transfer import EXPERIMENTS as TRANSFER
from experiments.supervised.prepare import NETWORK, check_metric, prepare
from experiments.training.errors import UsageError
from mobile_jax.families import named
from mobile_jax.inference import check_wave, least_samples
from pipelines import evaluation_batches
from pipelines.ledger import Ledger
from pipelines.sets import RecordingDevices
from tests.pipelines.conftest import index_cache, tone  # noqa: F401

# Four clips of three classes; nobody recorded with the device c.
CLASSES = {"labels": np.array([0, 2, 1, 1]), "device": np.array([0, 0, 1, 1])}
DEVICES = RecordingDevices(
  ("a", "b", "c"), "a", {"seen": ("a",), "unseen": ("b",), "none": ("c",)}, lambda name: name
)
TAGS = {"labels": np.eye(4, 3, dtype=np.float32)}


class HeldOut:
  """A part of a set that says what its clips are labelled with."""

  def __init__(self, **given):
    self.fields = {name: lambda rows, values=values: values[rows] for name, values in given.items()}

  def __len__(self):
    return 4


def labelled(**changes):
  known = {"name": "x", "classes": ("p", "q", "r"), "devices": None, "metric": ""} | changes
  return SimpleNamespace(**known)


def test_labelled_sets_are_used_whole():
  cfg = EXPERIMENTS["esc50"]
  cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, share=0.5))
  with pytest.raises(UsageError, match=r"--data.share 0.5: labelled sets are used whole"):
    prepare(cfg, Ledger(log=False), 1)


@pytest.mark.parametrize(
  ("known", "given", "figures", "forms"),
  [
    ({"objective": "classes"}, CLASSES, "loss, accuracy, class_accuracy, log_loss", 0),
    (
      {"objective": "classes", "devices": DEVICES},
      CLASSES,
      "loss, accuracy, class_accuracy, log_loss, class_log_loss, accuracy_seen, accuracy_unseen",
      0,
    ),
    ({"objective": "tags"}, TAGS, "loss, mAP, roc_auc, d_prime, classes", 0),
    (
      {"objective": "tags", "metric": "lwlrap"},
      TAGS,
      "loss, lwlrap, mAP, roc_auc, d_prime, classes",
      0,
    ),
    (
      {"objective": "classes"},
      CLASSES,
      "loss, accuracy, class_accuracy, log_loss, int8_accuracy, int8_class_accuracy, int8_log_loss",
      2,
    ),
  ],
)
def test_a_figure_that_validations_lack_is_named(known, given, figures, forms):
  method = quantise.method_of(QUANTISE["own"]) if forms else NETWORK
  for metric in figures.split(", "):
    check_metric(metric, method, labelled(**known), HeldOut(**given))
  match = f"--select.metric accuracy_none: validations of x have {figures}; choose one of these"
  with pytest.raises(UsageError, match=match) as error:
    check_metric("accuracy_none", method, labelled(**known), HeldOut(**given))
  assert "\n" not in str(error.value)


def test_whole_recordings_are_no_shorter_than_the_network_hears(tmp_path):
  for part in ("train", "test"):
    for label, seconds in (("low", 0.25), ("high", 0.01)):
      path = tmp_path / part / label / "x.wav"
      path.parent.mkdir(parents=True)
      soundfile.write(path, tone(3, seconds, 16_000), 16_000)
  cfg = TRANSFER["esc50"]
  data = dataclasses.replace(cfg.data, source=(f"folder={tmp_path}",), cache="memory")
  for student in ("mobilenet_v2", "efficientnet_b0"):
    model = named(student)
    ready = prepare(dataclasses.replace(cfg, data=data, model=model), Ledger(log=False), 1)
    with evaluation_batches(ready.test, 1) as batches:
      lengths = [batch["wave"].shape[1] for batch in batches]
    assert lengths == [least_samples(model), max(4000, least_samples(model))]
    check_wave(model, jnp.zeros((1, lengths[0])))
