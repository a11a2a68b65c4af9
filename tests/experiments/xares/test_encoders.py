"""The encoder classes: the package's own checker, tensors in and out, names and mistakes."""

import importlib

import numpy as np
import pytest

import mobile_jax
from dasheng_jax.errors import ConfigError
from dasheng_jax.weights.files import write_encoder_file
from experiments.xares.api import class_name
from experiments.xares.load import open_frames
from mobile_jax.network import shapes
from tests.experiments.embed_models import DASHENG, MN, dasheng, drawn, mobile, noise
from tests.experiments.test_embed_frames import PASST

CLASSES = {
  "dasheng": "DashengEncoder",
  "mn": "MNEncoder",
  "dymn": "DyMNEncoder",
  "cp_mobile": "CPMobileEncoder",
  "cp_resnet": "CPResNetEncoder",
  "passt": "PaSSTEncoder",
  "mobilenet_v2": "MobileNetV2Encoder",
  "efficientnet": "EfficientNetEncoder",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Weight files of two families that are read fast."""
  folder = tmp_path_factory.mktemp("weights")
  mobile_jax.write_model(folder / "passt.safetensors", PASST, drawn(shapes(PASST)))
  write_encoder_file(folder / "dasheng.safetensors", DASHENG, dasheng())
  return folder


def encoder_of(family):
  return getattr(importlib.import_module(f"experiments.xares.{family}"), CLASSES[family])


@pytest.mark.torch
@pytest.mark.parametrize("family", ["dasheng", "mn", "passt"])
def test_the_checker_of_the_package(family, files):
  if family == "mn":
    mobile_jax.write_model(files / "mn.safetensors", MN, mobile(MN))
  checker = pytest.importorskip("xares.audio_encoder_checker", reason="needs the package xares")
  assert checker.check_audio_encoder(encoder_of(family)(str(files / f"{family}.safetensors")))


@pytest.mark.torch
def test_what_the_checker_checks(files, torch, monkeypatch):
  """The same where the package is absent: class, attributes, [b, n, d] of any wave."""
  monkeypatch.setenv("XARES_WEIGHTS", str(files / "passt.safetensors"))
  made = encoder_of("passt")()
  assert isinstance(made, torch.nn.Module)
  assert type(made).__name__.endswith("_Encoder")
  assert isinstance(made, encoder_of("passt"))
  audio = torch.from_numpy(np.stack([noise(50_000), noise(50_000, 1)])).requires_grad_()
  found = made.to("cpu").eval()(audio)
  assert isinstance(found, torch.Tensor)
  assert tuple(found.shape) == (2, 15, made.output_dim) == (2, 15, 8)
  assert made.hop_size_in_ms == 100
  one = made(audio[1])
  np.testing.assert_allclose(one[0], found[1], atol=2e-5)


@pytest.mark.torch
def test_a_module_has_one_encoder():
  """The package takes the one name that ends so, calls it, and goes by no other."""
  for family, name in CLASSES.items():
    module = importlib.import_module(f"experiments.xares.{family}")
    assert [found for found in dir(module) if found.endswith("Encoder")] == [name]
    assert getattr(module, name).__name__ == name


@pytest.mark.torch
def test_weights_that_are_missing_or_others(files, monkeypatch):
  monkeypatch.delenv("XARES_WEIGHTS", raising=False)
  with pytest.raises(ConfigError, match="XARES_WEIGHTS"):
    encoder_of("mn")()
  with pytest.raises(ConfigError, match=r"is a passt model; take experiments\.xares\.passt"):
    encoder_of("mn")(str(files / "passt.safetensors"))


def test_two_files_have_two_names():
  settings = {"weights": "0f3c5a7e99", "features": ["mel", "b5"]}
  name = class_name("weights/my mn.safetensors", settings)
  assert name == "my_mn_0f3c5a7e_mel_b5_Encoder"
  assert name.isidentifier()
  assert class_name("run/", {"weights": "0f3c5a7e99"}) == "run_0f3c5a7e_Encoder"


def test_any_family_is_known_by_its_file(files):
  patches = open_frames(str(files / "passt.safetensors"), features=("blocks",))
  assert patches.hop_ms == 100  # the features are those of other families
  tokens = open_frames(str(files / "dasheng.safetensors"))
  assert tokens.hop_ms == 40
  assert tokens.settings["weights"] != patches.settings["weights"]
