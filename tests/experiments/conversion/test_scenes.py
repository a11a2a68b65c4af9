"""Scene models and taggers that decide at every step, through the converter: identified, written
every way, read back, with a card.
"""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import mobile_jax
from dasheng_jax.weights.table import to_torch
from experiments import convert_weights
from experiments.conversion.live import places
from experiments.conversion.stages import default_wave, stage_names, stages
from experiments.training import cli
from mobile_jax.decision_config import EfficientNetConfig, MobileNetV2Config
from mobile_jax.passt_config import PaSSTConfig
from mobile_jax.scene_config import CPMobileConfig, CPResNetConfig
from mobile_jax.weights.names import rules
from tests.mobile_jax.fixtures import shapes_of

NETWORKS = {
  "cp_mobile": CPMobileConfig(classes=3, base_channels=16, multiplier=1.8, expansion=2.0),
  "cp_resnet": CPResNetConfig(classes=3, base_channels=24, rho=5, cut_third=12),
  "passt": PaSSTConfig(classes=3, width=64, depth=1, heads=1, columns=20),
  "mobilenet_v2": MobileNetV2Config(classes=3, width=0.1, last=16),
  "efficientnet": EfficientNetConfig(classes=3, width=0.1, last=16),
}


def drawn(cfg):
  rng = np.random.default_rng(0)

  def value(x):
    whole = np.issubdtype(x.dtype, np.integer)
    return np.zeros((), x.dtype) if whole else rng.uniform(0.5, 1.5, x.shape).astype(x.dtype)

  return jax.tree.map(value, shapes_of(cfg))


@pytest.mark.parametrize(
  ("family", "to"),
  [
    ("cp_mobile", "huggingface"),
    ("passt", "safetensors"),
    *[
      pytest.param(family, to, marks=pytest.mark.slow)
      for family, to in (
        ("cp_mobile", "safetensors"),
        ("cp_mobile", "orbax"),
        ("cp_resnet", "huggingface"),
        ("cp_resnet", "safetensors"),
        ("passt", "huggingface"),
        ("passt", "orbax"),
        ("mobilenet_v2", "safetensors"),
        ("efficientnet", "huggingface"),
      )
    ],
  ],
)
def test_there_and_back(family, to, tmp_path):
  cfg = NETWORKS[family]
  variables = drawn(cfg)
  source = tmp_path / "source.safetensors"
  save_file(dict(to_torch(variables, rules(cfg))), source)
  out = tmp_path / ("out.safetensors" if to == "safetensors" else "out")
  config = cli.parse(
    [str(source), str(out), "--to", to],
    {"default": convert_weights.Convert()},
    prog="convert_weights",
    default="default",
  )
  assert not convert_weights.main(config)
  found, again = mobile_jax.read_model(out)
  assert shapes_of(found) == shapes_of(cfg)
  jax.tree.map(np.testing.assert_array_equal, again, variables)


@pytest.mark.parametrize(
  "family",
  [
    pytest.param(n, marks=pytest.mark.slow if n in ("efficientnet", "mobilenet_v2") else ())
    for n in NETWORKS
  ],
)
def test_stages_and_where_they_show(family):
  cfg = NETWORKS[family]
  found = stages(cfg, drawn(cfg), default_wave(cfg)[:1, :32_000])
  assert tuple(found) == stage_names(cfg)
  assert set(places(cfg)) <= set(found)
  assert found["logits"].shape == (1, 3)
