"""Live stages: hooks on modules that stand in for the originals, and what bad modules get."""

import dataclasses
import sys

import numpy as np
import pytest

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.files import official_state
from dasheng_jax.weights.names import FRONT_END, front_end_buffers
from experiments.conversion.live import (
  Place,
  check,
  live_stages,
  load_module,
  load_state,
  places,
  set_temperature,
)
from experiments.conversion.parity import table
from experiments.conversion.stages import default_wave, probe_wave, stage_names
from experiments.training.errors import UsageError
from mobile_jax.config import DyMNConfig
from tests.dasheng_jax.conftest import TINY, with_encoder
from tests.dasheng_jax.fixtures import worst

# Four clips of 100 frames, as the recorded networks' input, so that no other program is compiled.
WAVE = np.concatenate([probe_wave(1.0, 32_000), 0.3 * probe_wave(1.0, 32_000)])
HERE = "tests.experiments.conversion.torch_modules"


@pytest.fixture
def modules(torch):
  from tests.experiments.conversion import torch_modules

  return torch_modules


@pytest.fixture
def encoder(modules, tiny_state):
  """The stand-in of Dasheng, filled."""
  module = modules.Encoder()
  load_state(module, tiny_state)
  return module


@pytest.fixture
def mn(modules, recorded):
  """(configuration, the stand-in of MN, filled)."""
  cfg, state, _ = recorded("mn01_c_mlp")
  module = modules.MN(cfg, state)
  load_state(module, state)
  return cfg, module


def test_torch_dasheng_agrees_from_front_end_to_output(encoder, tiny):
  encoder.train()
  report = check(*tiny, encoder)
  assert report.ok, table(report)
  assert tuple(row.stage for row in report.rows) == stage_names(TINY)
  assert (report.only_ours, report.only_theirs) == ((), ())
  # The module is left as it was: in training mode, its statistics untouched, no hooks.
  assert encoder.training
  assert int(encoder.init_bn[1].num_batches_tracked) == 1234
  assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.modules())


def test_torch_dasheng_in_chunks(modules, tiny, tiny_state):
  """Blocks that run once for each chunk of a long input are put together again."""
  cfg, variables = tiny
  short = with_encoder(cfg, positions=20)
  names = variables["params"]["positions"]
  params = {**variables["params"], "positions": {**names, "time": names["time"][:20]}}
  module = modules.Encoder(positions=20)
  load_state(module, {**tiny_state, "time_pos_embed": tiny_state["time_pos_embed"][..., :20]})
  report = check(short, {**variables, "params": params}, module)
  assert report.ok, table(report)
  assert report.rows[-1].shape == (2, 50, 48)


def test_torch_dasheng_departs_where_a_weight_differs(torch, encoder, tiny):
  with torch.no_grad():
    encoder.blocks[1].mlp.fc1.weight[3, 5] += 0.5
  report = check(*tiny, encoder)
  assert report.first_departure.stage == "block_2"
  with torch.no_grad():
    encoder.front_end[0].mel_scale.fb[:, 30] *= 1.01
  assert check(*tiny, encoder).first_departure.stage == "log_mel"


def test_torch_encoder_in_a_wrapper_without_front_end(modules, tiny, tiny_state):
  """As the Hugging Face variant and the AudioSet classifier: our log-mel goes in."""
  draw = np.random.default_rng(2)
  head = {"0.weight": (48,), "0.bias": (48,), "1.weight": (7, 48), "1.bias": (7,)}
  drawn = {name: draw.normal(0, 0.5, shape).astype(np.float32) for name, shape in head.items()}
  state = {**tiny_state, **{f"outputlayer.{name}": x for name, x in drawn.items()}}
  module = modules.Classifier()
  load_state(module, state, constants=front_end_buffers(TINY))
  cfg, variables = tiny
  classifier = {
    "norm": {"scale": drawn["0.weight"], "bias": drawn["0.bias"]},
    "logits": {"kernel": drawn["1.weight"].T, "bias": drawn["1.bias"]},
  }
  params = {**variables["params"], "classifier": classifier}
  report = check(cfg, {**variables, "params": params}, module)
  assert report.ok, table(report)
  assert report.rows[-1].stage == "logits"
  assert report.only_ours == ("log_mel",)
  assert any("given our log-mel" in note for note in report.notes)
  # Without the head on our side the rest is compared all the same.
  assert check(cfg, variables, module).ok


def test_torch_mn_agrees_from_stem_to_logits(mn, variables_of):
  cfg, module = mn
  report = check(cfg, variables_of("mn01_c_mlp"), module, WAVE)
  assert report.ok, table(report)
  assert tuple(row.stage for row in report.rows) == stage_names(cfg)[1:]


def test_torch_mn_of_one_clip(mn, recorded):
  """The released networks squeeze the batch's axis away, where it is 1."""
  cfg, module = mn
  log_mel = np.asarray(recorded("mn01_c_mlp").log_mel)[:1, None]
  found = live_stages(module, np.zeros((1, 1), np.float32), places(cfg), log_mel)
  assert found["features"].shape == (1, cfg.features)
  assert found["logits"].shape == (1, cfg.classes)
  theirs = recorded("mn01_c_mlp").arrays["logits"][:1]
  assert worst(found["logits"], theirs) <= 1e-4


def test_torch_mn_departs_where_a_weight_differs(torch, mn, variables_of):
  cfg, module = mn
  with torch.no_grad():
    module.features[7].block[1][0].weight[2] *= -1
  report = check(cfg, variables_of("mn01_c_mlp"), module, WAVE)
  assert report.first_departure.stage == "block_7"


def test_torch_state_is_strict(modules, tiny_state):
  state = {name: x for name, x in tiny_state.items() if name != "norm.bias"}
  state |= {"extra": np.zeros(2, np.float32), "norm.weight": np.zeros(3, np.float32)}
  with pytest.raises(WeightsError) as caught:
    load_state(modules.Encoder(), state, "tiny.pt")
  text = str(caught.value)
  assert text.startswith("tiny.pt does not fit the module Encoder: missing norm.bias")
  assert "unexpected extra" in text
  assert "norm.weight has shape (3,), not (48,)" in text
  with pytest.raises(WeightsError, match="missing blocks.3.*and 6 more"):
    load_state(modules.Encoder(depth=4), tiny_state)


def test_torch_state_of_ours_and_constants(modules, tiny, tiny_state):
  """A file without the front end's buffers fits a module that has them, and the other way round."""
  exported = official_state(*tiny)
  module = modules.Encoder()
  bare = {name: x for name, x in exported.items() if name not in FRONT_END.values()}
  load_state(module, bare, constants=front_end_buffers(TINY))
  held = {name: x.numpy() for name, x in module.state_dict().items()}
  assert set(held) == set(tiny_state)
  for name, value in exported.items():
    np.testing.assert_array_equal(held[name], value, name)
  with pytest.raises(WeightsError, match="missing front_end.0.spectrogram.window"):
    load_state(modules.Encoder(), bare)
  with pytest.raises(WeightsError, match="unexpected front_end.0.spectrogram.window"):
    load_state(modules.Encoder(front_end=False), exported)


def test_torch_module_of_another_model(torch, encoder, mn, tiny):
  cfg, network = mn
  wave = default_wave(cfg)
  with pytest.raises(WeightsError, match="Encoder has no submodule features.0.*it has front_end"):
    live_stages(encoder, wave, places(cfg))
  with pytest.raises(WeightsError, match="has no front end .* given no log-mel"):
    live_stages(network, wave, places(cfg))
  with pytest.raises(WeightsError, match="MN does not take an input of shape .2, 9, 9."):
    live_stages(network, wave, places(cfg), np.zeros((2, 9, 9), np.float32))
  assert not any(m._forward_hooks for m in network.modules())


def test_torch_outputs_that_are_no_tensors_are_left_out(torch):
  class Odd(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.mel, self.idle = torch.nn.Identity(), torch.nn.Identity()

    def forward(self, x):
      return {"tags": self.mel(x).zero_()}

  names = {"idle": Place("idle"), "logits": Place("", item=0), "features": Place("", item=1)}
  found = live_stages(Odd(), np.ones((1, 5), np.float32), names)
  assert list(found) == ["log_mel"]
  # As it was when it came out, whatever is done to it in place.
  np.testing.assert_array_equal(found["log_mel"], np.ones((1, 5)))


def test_torch_temperature_is_set_where_there_is_one(torch):
  part, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
  part.temperature = 30.0
  module = torch.nn.Sequential(part, other)
  assert set_temperature(module, DyMNConfig().temperature) == 1
  assert part.temperature == 1.0


def test_torch_modules_by_name(modules):
  assert isinstance(load_module(f"{HERE}:Encoder"), modules.Encoder)
  made = load_module(f"{HERE}:Encoder(width=16, depth=2, heads=2)")
  assert len(made.blocks) == 2
  assert made.norm.weight.shape == (16,)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("no_such_package.x:Encoder", "no module named 'no_such_package'"),
    (f"{HERE}:Encodr", "no callable is named 'Encodr'; did you mean Encoder"),
    (f"{HERE}:Encoder(depth=none)", "write it as package.module:callable"),
    (f"{HERE}:Encoder(4)", "write it as package.module:callable"),
    (f"{HERE}:", "write it as package.module:callable"),
    (HERE, "write it as package.module:callable"),
    (f"{HERE}:Encoder(size=4)", "TypeError: .*unexpected keyword argument 'size'"),
    (f"{HERE}:conv_norm", "TypeError: .*missing 3 required positional arguments"),
    ("builtins:dict(a=1)", "gives a dict, not a torch.nn.Module"),
  ],
)
def test_torch_module_names_that_cannot_be(name, message, torch):
  with pytest.raises(UsageError, match=message) as caught:
    load_module(name)
  assert "\n" not in str(caught.value)


def test_without_pytorch_one_line_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UsageError, match="install the extra .torch.*or check against a golden file"):
    load_module(f"{HERE}:Encoder")


def test_places_follow_the_depth():
  deep = dataclasses.replace(TINY, encoder=dataclasses.replace(TINY.encoder, depth=5))
  assert places(deep)["block_5"] == Place("blocks.4")
  assert places(deep)["tokens"] == Place("blocks.0", "input")
